//! The settings of `net.ipv4.vs`, read back with sysctl(8)'s own files.

use std::sync::Arc;
use std::time::Duration;

use plimsoll::config::Config;
use plimsoll::event::Event;
use plimsoll::ipvs::{Kernel, keep_sysctls};
use tokio::time::Instant;

use super::lab::{Lab, in_namespace, sh, until};

fn want(lab: &mut Lab, settings: &[(&'static str, &str)]) {
    let mut config = Config::clone(&lab.snapshot.config);
    let settings = settings
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()));
    config.ipvs.sysctl = settings.collect();
    lab.snapshot.config = Arc::new(config);
}

/// The thread's own: /proc/sys of another thread shows another namespace.
fn is(name: &str) -> String {
    let words = sh(&format!("cat /proc/sys/net/ipv4/vs/{name}"));
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn change(lab: &mut Lab) -> String {
    match lab.event().await {
        Event::RepairedHost { part, change } => {
            assert_eq!(part, "sysctl");
            change
        }
        other => panic!("{other:?}"),
    }
}

async fn trouble(lab: &mut Lab) -> Option<String> {
    match lab.event().await {
        Event::Trouble { part, fault } => {
            assert_eq!(part, "sysctl");
            fault
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn are_set_kept_and_left_alone() {
    in_namespace(async {
        // Asking for it loads the module.
        Kernel::connect().await.expect("a kernel with IPVS");
        let mut lab = Lab::new();
        want(
            &mut lab,
            &[("expire_nodest_conn", "1"), ("sync_threshold", "0 50")],
        );
        lab.start(keep_sysctls).await;
        until("they are set", || {
            is("expire_nodest_conn") == "1" && is("sync_threshold") == "0 50"
        })
        .await;
        // A start is no repair.
        lab.quiet(Duration::from_secs(3)).await;

        sh("echo 0 > /proc/sys/net/ipv4/vs/expire_nodest_conn");
        let changed = Instant::now();
        let told = change(&mut lab).await;
        assert_eq!(told, "net.ipv4.vs.expire_nodest_conn: 0 -> 1");
        assert!(changed.elapsed() < Duration::from_secs(5), "{changed:?}");
        assert_eq!(is("expire_nodest_conn"), "1");
        sh("echo 3 50 > /proc/sys/net/ipv4/vs/sync_threshold");
        let told = change(&mut lab).await;
        assert_eq!(told, "net.ipv4.vs.sync_threshold: 3 50 -> 0 50");
        // What is not ours may change as it likes.
        sh("echo 1 > /proc/sys/net/ipv4/vs/drop_entry");
        lab.quiet(Duration::from_secs(3)).await;
        assert_eq!(is("drop_entry"), "1");

        // Another configuration: what is new is set at once, what is gone stays and is no longer kept.
        want(
            &mut lab,
            &[("expire_nodest_conn", "0"), ("drop_entry", "2")],
        );
        lab.publish();
        until("it is set", || is("expire_nodest_conn") == "0").await;
        sh("echo 3 50 > /proc/sys/net/ipv4/vs/sync_threshold");
        lab.quiet(Duration::from_secs(3)).await;
        assert_eq!(is("sync_threshold"), "3 50");
        // The kernel itself moves it between 1 and 2.
        assert_eq!(is("drop_entry"), "1");
    });
}

#[test]
fn what_cannot_be_set_is_told_and_holds_up_nothing() {
    in_namespace(async {
        Kernel::connect().await.expect("a kernel with IPVS");
        let mut lab = Lab::new();
        want(
            &mut lab,
            &[("expire_nodest_conn", "1"), ("no_such_setting", "1")],
        );
        lab.start(keep_sysctls).await;
        let fault = "cannot read net.ipv4.vs.no_such_setting: this kernel has no such setting";
        assert_eq!(trouble(&mut lab).await.as_deref(), Some(fault));
        assert_eq!(is("expire_nodest_conn"), "1");
        want(
            &mut lab,
            &[("expire_nodest_conn", "1"), ("sync_ports", "3")],
        );
        lab.publish();
        let fault = "cannot write net.ipv4.vs.sync_ports: the kernel does not take this value";
        assert_eq!(trouble(&mut lab).await.as_deref(), Some(fault));
        // Said once.
        lab.quiet(Duration::from_secs(3)).await;
        want(&mut lab, &[("expire_nodest_conn", "1")]);
        lab.publish();
        assert_eq!(trouble(&mut lab).await, None);
    });
}
