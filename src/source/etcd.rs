//! `servers = "etcd:DC/CLUSTER/SERVICE"`: follows the pools of `[etcd]` and sends their lists as they change.
//!
//! ```text
//!  Wants ──► run ──► one connection at a time ──► v3::follow or v2::follow
//!             ▲ │                                        │
//!             │ └──► Saved: the lists on our own disk     │
//!             │                                           │
//!  Event ◄── Mirror ◄──────────── News ◄──────────────────┘
//! ```
//!
//! A connection begins with a read of all that is wanted and ends at the first thing that is wrong; the next
//! endpoint is asked at once. What etcd says is compared with what is known, so that a fresh read disturbs no
//! pool, whatever happened to the cluster meanwhile.

mod connection;
mod contact;
mod mirror;
mod news;
mod saved;
mod v2;
mod v3;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::config::{Etcd, Servers};
use crate::conftool::PoolPath;
use crate::event::Event;
use crate::service::ServiceName;

use connection::{Connection, Heard};
use contact::Contact;
use mirror::{Away, Mirror, Told};
use news::News;
use saved::{Pools, Saved};

/// A connection that has lived so long after its read is a good one.
const PROVEN: Duration = Duration::from_secs(1);
/// After so long a good connection is renewed: a fresh read shows what a watch has missed, if ever one does.
const RENEW: Duration = Duration::from_secs(10 * 60);
/// The same while a pool has more keys than we follow.
const RENEW_OVERFULL: Duration = Duration::from_secs(30);
/// At most so often are the lists saved.
const SAVE: Duration = Duration::from_secs(1);
/// So often they are saved though nothing changed, so that their time says how long etcd was away.
const REFRESH: Duration = Duration::from_secs(20);

/// Names of our own parts in [`Event::Trouble`].
const ETCD: &str = "etcd";
const LISTS: &str = "etcd-lists";

/// Which lists are wanted, and for whom.
#[derive(Clone, Debug, Default)]
pub(super) struct Wants {
    pub(super) config: Option<Arc<Etcd>>,
    pub(super) services: BTreeMap<ServiceName, Want>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) pool: PoolPath,
    /// Another number: the list must be sent again.
    pub(super) number: u64,
}

impl Wants {
    fn by_pool(&self) -> BTreeMap<PoolPath, Vec<ServiceName>> {
        let mut pools: BTreeMap<PoolPath, Vec<ServiceName>> = BTreeMap::new();
        for (service, want) in &self.services {
            let services = pools.entry(want.pool.clone()).or_default();
            services.push(service.clone());
        }
        pools
    }
}

/// Sends the wanted lists; ends when the sender of wants is gone.
pub(super) async fn run(
    state_directory: Option<PathBuf>,
    mut wants: watch::Receiver<Wants>,
    events: mpsc::Sender<Event>,
) {
    let wanting = |wants: &Wants| !wants.services.is_empty();
    // A daemon without lists in etcd has nothing to do with it.
    if wants.wait_for(wanting).await.is_err() {
        return;
    }
    let mut source = Source::new(Saved::new(state_directory), events);
    if source.remember().await.is_err() {
        return;
    }
    let first = wants.borrow_and_update().clone();
    if source.want(first).await.is_err() {
        return;
    }
    loop {
        let due = source.due();
        let timer = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let gone = tokio::select! {
            changed = wants.changed() => match changed {
                Ok(()) => {
                    let now = wants.borrow_and_update().clone();
                    source.want(now).await
                }
                Err(_) => Err(Gone),
            },
            heard = Connection::next(&mut source.connection) => source.heard(heard).await,
            written = source.saved.written() => source.written(written).await,
            () = timer => source.on_time(Instant::now()).await,
        };
        if gone.is_err() {
            return;
        }
    }
}

/// The core is gone, and so shall we.
struct Gone;

struct Source {
    events: mpsc::Sender<Event>,
    wants: Wants,
    /// The same the other way round.
    by_pool: BTreeMap<PoolPath, Vec<ServiceName>>,
    mirror: Mirror,
    saved: Saved,
    /// What the file said at the start, for pools that are wanted later; until etcd has answered.
    remembered: Pools,
    contact: Contact,
    connection: Option<Connection>,
    /// When to try the next endpoint, while there is no connection.
    retry: Option<Instant>,
    /// When etcd was heard of last, and how much longer ago it is than that. `None`: never.
    heard: Option<(Instant, Duration)>,
    /// Since when no connection has been a good one.
    lost: Option<Instant>,
    /// What the core was told to be wrong with etcd, with the file.
    trouble: Option<String>,
    file_trouble: Option<String>,
    /// That is no more than a file without the lists that are waited for.
    file_lacks: bool,
    /// The lists differ from those that were saved last.
    unsaved: bool,
    /// When that was begun.
    saved_at: Option<Instant>,
}

impl Source {
    fn new(saved: Saved, events: mpsc::Sender<Event>) -> Source {
        Source {
            events,
            wants: Wants::default(),
            by_pool: BTreeMap::new(),
            mirror: Mirror::default(),
            saved,
            remembered: Pools::new(),
            contact: Contact::new(&[]),
            connection: None,
            retry: None,
            heard: None,
            lost: None,
            trouble: None,
            file_trouble: None,
            file_lacks: false,
            unsaved: false,
            saved_at: None,
        }
    }

    /// Reads the file.
    async fn remember(&mut self) -> Result<(), Gone> {
        match self.saved.load().await {
            Ok(Some(remembered)) => {
                debug!(pools = remembered.pools.len(), age = ?remembered.age, "saved lists");
                self.heard = Some((Instant::now(), remembered.age));
                self.remembered = remembered.pools;
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(fault) => self.file_trouble(Some(fault)).await,
        }
    }

    /// Takes what is wanted from now on.
    async fn want(&mut self, wants: Wants) -> Result<(), Gone> {
        let before = std::mem::replace(&mut self.wants, wants);
        let Some(config) = self.wants.config.clone() else {
            return self.rest().await;
        };
        self.by_pool = self.wants.by_pool();
        let wanted: BTreeSet<PoolPath> = self.by_pool.keys().cloned().collect();
        let same_config = before.config.as_ref() == Some(&config);
        if same_config && before.services == self.wants.services {
            return Ok(());
        }
        self.mirror.want(&config.prefix, &wanted);
        for path in &wanted {
            if let Some(good) = self.remembered.get(path) {
                self.mirror.remember(path, good.clone());
            }
        }
        if !same_config {
            self.contact = Contact::new(&config.endpoints);
        }
        let serves = |c: &Connection| same_config && wanted.is_subset(&c.serves);
        self.connection = self.connection.take().filter(serves);
        if let Some(connection) = &mut self.connection {
            // What is forgotten now must be read anew when it comes back.
            connection.serves.clone_from(&wanted);
        }
        if wanted.is_empty() {
            return self.rest().await;
        }
        if self.connection.is_none() {
            let now = Instant::now();
            self.lost.get_or_insert(now);
            self.retry = Some(now);
        }
        self.tell_the_new(&before).await?;
        self.lacks_nothing().await
    }

    /// There is nothing to follow.
    async fn rest(&mut self) -> Result<(), Gone> {
        (self.connection, self.retry, self.lost) = (None, None, None);
        if self.file_lacks {
            self.file_trouble(None).await?;
        }
        self.trouble(None).await
    }

    /// Services that came want to know what is known.
    async fn tell_the_new(&mut self, before: &Wants) -> Result<(), Gone> {
        let mut events = Vec::new();
        for (service, want) in &self.wants.services {
            if before.services.get(service) != Some(want)
                && let Some(told) = self.mirror.told(&want.pool)
            {
                events.push(event(service, &want.pool, told));
            }
        }
        self.send(events).await
    }

    /// When there is something to do though nothing has happened.
    fn due(&self) -> Option<Instant> {
        let read = self.connection.as_ref().and_then(|c| c.read);
        let proven = self.connection.as_ref().is_some_and(|c| c.proven);
        let patience = || Some(self.lost? + self.timeout());
        let mut dues = vec![self.retry, self.save_at()];
        dues.push(read.map(|at| at + if proven { self.renew() } else { PROVEN }));
        dues.push(patience().filter(|_| self.trouble.is_none()));
        dues.into_iter().flatten().min()
    }

    async fn on_time(&mut self, now: Instant) -> Result<(), Gone> {
        if self.retry.is_some_and(|at| at <= now) {
            self.connect();
        }
        if let Some(connection) = &mut self.connection
            && let Some(read) = connection.read
        {
            let age = now.duration_since(read);
            if !connection.proven && age >= PROVEN {
                connection.proven = true;
                self.proven().await?;
            } else if connection.proven && age >= self.renew() {
                debug!("renewing a good connection");
                self.connect();
            }
        }
        if self.lost.is_some_and(|at| at + self.timeout() <= now) {
            self.without().await?;
        }
        if self.save_at().is_some_and(|at| at <= now) {
            self.unsaved = false;
            self.saved_at = Some(now);
            self.saved.save(self.mirror.good(), self.away(now));
        }
        Ok(())
    }

    fn connect(&mut self) {
        self.retry = None;
        if let (Some(config), Some(endpoint)) = (&self.wants.config, self.contact.endpoint()) {
            debug!(%endpoint, "connecting to etcd");
            self.connection = Some(Connection::open(
                config,
                endpoint,
                self.by_pool.keys().cloned().collect(),
            ));
        }
    }

    async fn heard(&mut self, heard: Heard) -> Result<(), Gone> {
        let now = Instant::now();
        match heard {
            Heard::News(news) => {
                let away = self.away(now);
                let stale = self.wants.config.as_ref().map(|config| config.stale_after);
                let away = Away {
                    age: away,
                    stale: self.heard.is_some() && stale.is_some_and(|stale| away > stale),
                };
                self.heard = Some((now, Duration::ZERO));
                let first = matches!(news, News::All { .. });
                let told = self.mirror.take(news, away);
                if first {
                    self.first_read(now, told.len());
                }
                self.unsaved |= !told.is_empty();
                self.tell(told).await?;
                self.lacks_nothing().await
            }
            Heard::Ended(said) => self.ended(&said, now).await,
        }
    }

    fn first_read(&mut self, now: Instant, lists: usize) {
        // From now on etcd is asked, and nobody else.
        self.remembered.clear();
        if let Some(connection) = &mut self.connection
            && (connection.proven || connection.read.is_none())
        {
            // One that must read all again and again follows all the same, and has lived since its first read.
            connection.read = Some(now);
        }
        let endpoint = self.contact.endpoint().map(url::Url::as_str);
        debug!(endpoint, lists, "read from etcd");
    }

    /// The connection is a good one.
    async fn proven(&mut self) -> Result<(), Gone> {
        self.contact.good();
        let endpoint = self.contact.endpoint().map(url::Url::as_str);
        if self.lost.take().is_some() {
            info!(endpoint, "following the pools in etcd");
        }
        self.trouble(None).await
    }

    async fn ended(&mut self, said: &str, now: Instant) -> Result<(), Gone> {
        self.lost.get_or_insert(now);
        let was_good = self.connection.take().is_some_and(|c| c.proven);
        let endpoint = self.contact.endpoint().map(url::Url::as_str);
        if was_good {
            info!(endpoint, why = said, "lost etcd; trying the next endpoint");
            self.contact.ended();
            self.connect();
            return Ok(());
        }
        debug!(endpoint, why = said, "no use of this endpoint of etcd");
        self.retry = Some(self.contact.bad(said, now));
        if self.contact.all_failed() {
            self.without_lists().await?;
        }
        if self.trouble.is_some() {
            self.trouble(Some(self.contact.fault())).await?;
        }
        Ok(())
    }

    /// No endpoint has been of use for longer than one may take to answer.
    async fn without(&mut self) -> Result<(), Gone> {
        self.without_lists().await?;
        if self.trouble.is_none() {
            self.trouble(Some(self.contact.fault())).await?;
        }
        Ok(())
    }

    /// The core takes the remembered lists where it has none.
    async fn without_lists(&mut self) -> Result<(), Gone> {
        let age = self.away(Instant::now());
        let told = self.mirror.remembered(age);
        if !told.is_empty() {
            warn!(
                pools = told.len(),
                ?age,
                "etcd does not answer: taking the saved lists"
            );
        }
        self.tell(told).await?;
        let waiting = self.mirror.waiting().count();
        if waiting > 0
            && self.file_trouble.is_none()
            && let Some(path) = self.saved.path()
        {
            let fault = format!(
                "{} has no list of {waiting} pools; they wait for etcd",
                path.display()
            );
            self.file_trouble(Some(fault)).await?;
            self.file_lacks = true;
        }
        Ok(())
    }

    /// What the file lacks matters only while somebody waits for it.
    async fn lacks_nothing(&mut self) -> Result<(), Gone> {
        if self.file_lacks && self.mirror.waiting().next().is_none() {
            self.file_trouble(None).await?;
        }
        Ok(())
    }

    async fn written(&mut self, written: Result<(), String>) -> Result<(), Gone> {
        self.unsaved |= written.is_err();
        self.file_trouble(written.err()).await
    }

    /// How long ago etcd was heard of.
    fn away(&self, now: Instant) -> Duration {
        self.heard.map_or(Duration::ZERO, |(at, before)| {
            now.saturating_duration_since(at).saturating_add(before)
        })
    }

    fn save_at(&self) -> Option<Instant> {
        // Before etcd has answered the file knows more than we do.
        let lives = self.connection.as_ref().is_some_and(|c| c.read.is_some());
        if !self.saved.idle() || !(self.unsaved || lives) {
            return None;
        }
        let config = self.wants.config.as_ref();
        let stale = config.map_or(REFRESH, |config| config.stale_after / 3);
        let pause = match (self.unsaved, &self.file_trouble) {
            (true, None) => SAVE,
            (false, None) | (_, Some(_)) => REFRESH.min(stale).max(SAVE),
        };
        let first = self.heard.map(|(at, _)| at);
        self.saved_at.map(|at| at + pause).or(first)
    }

    fn renew(&self) -> Duration {
        if self.mirror.lost_track() {
            RENEW_OVERFULL
        } else {
            RENEW
        }
    }

    fn timeout(&self) -> Duration {
        let config = self.wants.config.as_ref();
        config.map_or(Duration::ZERO, |config| config.timeout)
    }

    async fn trouble(&mut self, fault: Option<String>) -> Result<(), Gone> {
        if self.trouble == fault {
            return Ok(());
        }
        self.trouble.clone_from(&fault);
        self.send(vec![Event::Trouble { part: ETCD, fault }]).await
    }

    async fn file_trouble(&mut self, fault: Option<String>) -> Result<(), Gone> {
        if self.file_trouble == fault {
            return Ok(());
        }
        self.file_trouble.clone_from(&fault);
        self.file_lacks = false;
        self.send(vec![Event::Trouble { part: LISTS, fault }]).await
    }

    /// What is told of a pool goes to each service that has it.
    async fn tell(&mut self, told: Vec<(PoolPath, Told)>) -> Result<(), Gone> {
        let mut events = Vec::new();
        for (path, told) in &told {
            for service in self.by_pool.get(path).into_iter().flatten() {
                events.push(event(service, path, told));
            }
        }
        self.send(events).await
    }

    async fn send(&self, mut events: Vec<Event>) -> Result<(), Gone> {
        let event = match events.len() {
            0 => return Ok(()),
            1 => events.remove(0),
            _ => Event::Together(events),
        };
        self.events.send(event).await.map_err(|_| Gone)
    }
}

fn event(service: &ServiceName, pool: &PoolPath, told: &Told) -> Event {
    let (service, from) = (service.clone(), Servers::Etcd(pool.clone()));
    match told {
        Told::List(list) => Event::List {
            service,
            from,
            list: list.clone(),
        },
        Told::Failed(fault) => Event::SourceFailed {
            service,
            from,
            fault: fault.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EtcdApi;
    use crate::snapshot::sample;

    /// Wants dc/c/NAME for each, of an etcd that is not there.
    fn wants(names: &[&str]) -> Wants {
        let want = |name: &&str| {
            let pool = format!("dc/c/{name}").parse().unwrap();
            (name.parse().unwrap(), Want { pool, number: 0 })
        };
        let mut config = sample::etcd(EtcdApi::V2);
        Arc::make_mut(&mut config).endpoints = vec!["http://127.0.0.1:1".parse().unwrap()];
        Wants {
            config: Some(config),
            services: names.iter().map(want).collect(),
        }
    }

    fn all(revision: u64) -> Heard {
        Heard::News(News::All {
            revision,
            pools: BTreeMap::new(),
            leases: BTreeMap::new(),
        })
    }

    /// What was told of a part last, if anything was.
    fn told(events: &mut mpsc::Receiver<Event>, of: &str) -> Option<Option<String>> {
        let mut last = None;
        while let Ok(event) = events.try_recv() {
            if let Event::Trouble { part, fault } = event
                && part == of
            {
                last = Some(fault);
            }
        }
        last
    }

    /// As v2's does while more changes than etcd keeps come between two polls.
    #[tokio::test(start_paused = true)]
    async fn who_reads_all_again_and_again_is_of_use() {
        let (sender, mut events) = mpsc::channel(100);
        let mut source = Source::new(Saved::new(None), sender);
        let _ = source.want(wants(&["a"])).await;
        source.connect();
        for revision in 1..100 {
            let _ = source.heard(all(revision)).await;
            tokio::time::advance(PROVEN / 4).await;
            let _ = source.on_time(Instant::now()).await;
        }
        assert!(source.connection.is_some_and(|c| c.proven));
        assert_eq!(told(&mut events, ETCD), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_file_lacks_is_told_until_nobody_waits_for_it() {
        let (sender, mut events) = mpsc::channel(100);
        let folder = tempfile::tempdir().unwrap();
        let mut source = Source::new(Saved::new(Some(folder.path().to_owned())), sender);
        let _ = source.want(wants(&["a", "b"])).await;
        let _ = source.without().await;
        let lacks = |fault: Option<Option<String>>| fault.flatten().is_some();
        assert!(lacks(told(&mut events, LISTS)));
        source.connect();
        let _ = source.heard(all(1)).await;
        assert_eq!(told(&mut events, LISTS), Some(None));
        // Another pool is wanted while etcd is away, and then no more.
        for others in [wants(&["a", "b"]), Wants::default(), wants(&[])] {
            let _ = source.want(wants(&["a", "b", "c"])).await;
            let _ = source.without().await;
            assert!(lacks(told(&mut events, LISTS)));
            let _ = source.want(others).await;
            assert_eq!(told(&mut events, LISTS), Some(None));
        }
    }
}
