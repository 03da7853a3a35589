//! How the kernel's table is looked at from outside while somebody else is at work on it: seldom, and at no more of it
//! than it takes, for on one processor whoever looks holds up the work. All of it is of the namespace that the calling
//! thread is in.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use plimsoll::ipvs;
use plimsoll::ipvs::listing::{Key, Listing};
use tokio::runtime::{Builder, Runtime};

use crate::load::Table;

/// As `plimsoll::ipvs::listing::PATH`, which is of the process.
const PATH: &str = "/proc/thread-self/net/ip_vs";
/// How often it is looked at. Five system calls, at most.
const LOOK: Duration = Duration::from_millis(2);

/// Reads the table.
pub(crate) struct Reader(Runtime);

impl Reader {
    /// Not to be made in a namespace that shall go: the first runtime of a process leaves sockets behind, and they keep
    /// it, and the table in it. And where two namespaces have tables, Linux 6.1 leaves services out of
    /// `/proc/net/ip_vs`.
    pub(crate) fn new() -> Reader {
        let mut runtime = Builder::new_current_thread();
        Reader(runtime.enable_all().build().expect("a runtime"))
    }

    /// What the table has of what is wanted: one netlink request for each service, with the daemon's own code.
    pub(crate) fn table(&self, wanted: &Table) -> Table {
        let keys = wanted.keys().copied();
        self.0.block_on(async {
            let mut table = ipvs::Table::Kernel(ipvs::Kernel::connect().await.expect("IPVS"));
            ipvs::found(&mut table, keys).await.expect("it is read")
        })
    }

    /// Whether the table has exactly that of it. Who fills it goes from the first service to the last: the last ones are
    /// looked at first, and none after one that is not right.
    pub(crate) fn holds(&self, wanted: &Table) -> bool {
        self.0.block_on(async {
            let mut table = ipvs::Table::Kernel(ipvs::Kernel::connect().await.expect("IPVS"));
            for (key, servers) in wanted.iter().rev() {
                let found = ipvs::found(&mut table, [*key]).await.expect("it is read");
                if found.get(key) != Some(servers) {
                    return false;
                }
            }
            true
        })
    }

    /// When the table was first seen to be exactly this. It is not read before it has as many services, and the reading
    /// itself is not counted. `each` time it is looked at.
    pub(crate) fn wait_for(
        &self,
        wanted: &Table,
        limit: Duration,
        mut each: impl FnMut(),
    ) -> Instant {
        let until = Instant::now() + limit;
        let asked = Asked::new();
        loop {
            let now = Instant::now();
            let services = asked.services() as usize;
            if services == wanted.len() && self.holds(wanted) {
                return now;
            }
            assert!(now < until, "{services} services after {limit:?}");
            each();
            std::thread::sleep(LOOK);
        }
    }
}

/// The server that `/proc/net/ip_vs` lists first, its service and its weight: the one whose weight costs least to see.
pub(crate) fn first() -> (SocketAddr, Ipv4Addr, u32) {
    // The kernel makes no more of the text than is read at once.
    let mut page = [0; 4096];
    let mut file = File::open(PATH).expect("IPVS");
    let read = file.read(&mut page).expect("IPVS");
    let text = String::from_utf8_lossy(&page[..read]);
    let listing = Listing::of(&text);
    let service = listing.services.first().expect("a service");
    let (Key::Address(_, at), Some(to)) = (&service.key, service.destinations.first()) else {
        panic!("not one of ours: {service:?}");
    };
    let SocketAddr::V4(server) = to.at else {
        panic!("not one of ours: {service:?}");
    };
    let weight = u32::try_from(to.weight).expect("a weight");
    (*at, *server.ip(), weight)
}

/// Returns when the server that is listed first has this weight.
pub(crate) fn wait_for_weight(weight: u32, limit: Duration) {
    let until = Instant::now() + limit;
    while first().2 != weight {
        assert!(Instant::now() < until, "no such weight after {limit:?}");
        std::thread::sleep(LOOK);
    }
}

/// IPVS over the oldest of its ways, a socket option, which alone says how many services there are.
struct Asked(UdpSocket);

/// `struct ip_vs_getinfo` of linux/ip_vs.h.
#[repr(C)]
#[derive(Default)]
struct Info {
    version: u32,
    buckets: u32,
    services: u32,
}

/// `IP_VS_SO_GET_INFO`
const INFO: i32 = 64 + 1024 + 64 + 1;

impl Asked {
    fn new() -> Asked {
        Asked(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket"))
    }

    #[expect(unsafe_code, reason = "nix lacks this option")]
    fn services(&self) -> u32 {
        let mut info = Info::default();
        let mut length = size_of::<Info>() as libc::socklen_t;
        // SAFETY: `info` is as long as `length` says, and any bytes make a good one.
        let asked = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_IP,
                INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
        info.services
    }
}
