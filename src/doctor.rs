//! `plimsoll doctor`: what silently breaks a balancer or a real server, each with what was found, why it matters and
//! the command that mends it. It looks and asks, and changes nothing.
//!
//! ```text
//!  files, netlink, packet sockets, TCP ──► Host ──► each of CHECKS ──► Report
//! ```
//!
//! All reading is in [`host`] and what it calls; a check only judges a [`Host`]. What the running daemon knows of
//! its pools and sessions is not its business: that is in `/alerts`.

mod addresses;
mod arp;
pub mod host;
mod kernel;
mod limits;
mod netlink;
mod network;
mod probe;
mod reach;
mod rivals;
mod services;

use serde::Serialize;

use self::Role::{Balancer, RealServer};
pub use self::host::{Asked, Host};
use crate::table::clean;

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Role {
    Balancer,
    RealServer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Clients are hurt, or would be.
    Fault,
    /// Works until something else happens.
    Warning,
    /// What could not be looked at, or is good to know.
    Note,
}

/// How it is put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mend {
    /// For a shell, as root.
    Command(String),
    /// No one command does it.
    Words(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name in the table of checks.
    pub check: &'static str,
    pub severity: Severity,
    pub found: String,
    pub why: &'static str,
    pub mend: Mend,
}

/// One subject that is looked at.
struct Check {
    name: &'static str,
    roles: &'static [Role],
    look: fn(&Host, &mut Found),
}

const BOTH: &[Role] = &[Balancer, RealServer];

/// All of them, in the order of the report among those that are equally bad.
const CHECKS: &[Check] = &[
    check("ipvs", &[Balancer], kernel::ipvs),
    check("ipvs-protocol", &[Balancer], kernel::protocols),
    check("scheduler", &[Balancer], kernel::schedulers),
    check("connection-table", &[Balancer], kernel::connection_table),
    check("ipvs-sysctl", &[Balancer], kernel::sysctls),
    check("service", &[Balancer], services::services),
    check("server-route", &[Balancer], services::routes),
    check("lo", BOTH, addresses::lo),
    check("ipv6", BOTH, addresses::ipv6),
    check("vip-missing", BOTH, addresses::missing),
    check("vip-interface", BOTH, addresses::interface),
    check("vip-prefix", BOTH, addresses::prefix),
    check("vip-owner", &[Balancer], addresses::owner),
    check("duplicate-address", BOTH, arp::duplicates),
    check("arp", BOTH, arp::sysctls),
    check("vrrp", BOTH, rivals::vrrp),
    check("rival", &[Balancer], rivals::others),
    check("ipvsadm-service", &[Balancer], rivals::ipvsadm),
    check("rp-filter", BOTH, network::rp_filter),
    check("ip-forward", &[Balancer], network::ip_forward),
    check("conntrack", BOTH, network::conntrack),
    check("offload", &[Balancer], network::offload),
    check("mtu", BOTH, network::mtu),
    check("mss", &[RealServer], network::mss),
    check("listener", &[RealServer], services::listeners),
    check("etcd", &[Balancer], reach::etcd),
    check("router", &[Balancer], reach::routers),
    check("file-limit", &[Balancer], limits::files),
    check("clock", BOTH, limits::clock),
];

const fn check(name: &'static str, roles: &'static [Role], look: fn(&Host, &mut Found)) -> Check {
    Check { name, roles, look }
}

/// What a check has to say.
struct Found {
    check: &'static str,
    findings: Vec<Finding>,
}

impl Found {
    fn fault(&mut self, found: String, why: &'static str, mend: Mend) {
        self.say(Severity::Fault, found, why, mend);
    }

    fn warning(&mut self, found: String, why: &'static str, mend: Mend) {
        self.say(Severity::Warning, found, why, mend);
    }

    fn note(&mut self, found: String, why: &'static str, mend: Mend) {
        self.say(Severity::Note, found, why, mend);
    }

    fn say(&mut self, severity: Severity, found: String, why: &'static str, mend: Mend) {
        self.findings.push(Finding {
            check: self.check,
            severity,
            found,
            why,
            mend,
        });
    }

    /// The check could not be made.
    fn unknown(&mut self, why_not: String, mend: &str) {
        let why = "what is not looked at may be wrong";
        self.note(why_not, why, Mend::Words(mend.to_owned()));
    }
}

fn command(text: impl Into<String>) -> Mend {
    Mend::Command(text.into())
}

fn words(text: impl Into<String>) -> Mend {
    Mend::Words(text.into())
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub role: Role,
    /// So many checks belong to the role.
    pub checks: usize,
    /// The worst first.
    pub findings: Vec<Finding>,
}

/// Makes all checks of the host's role.
pub fn examine(host: &Host) -> Report {
    let mut findings = Vec::new();
    let mut checks = 0;
    for check in CHECKS
        .iter()
        .filter(|check| check.roles.contains(&host.role))
    {
        checks += 1;
        let mut found = Found {
            check: check.name,
            findings: Vec::new(),
        };
        (check.look)(host, &mut found);
        findings.append(&mut found.findings);
    }
    findings.sort_by_key(|finding| finding.severity);
    Report {
        role: host.role,
        checks,
        findings,
    }
}

impl Report {
    /// 0 nothing or notes alone, 1 warnings, 2 faults.
    pub fn exit_code(&self) -> u8 {
        match self.findings.first().map(|worst| worst.severity) {
            None | Some(Severity::Note) => 0,
            Some(Severity::Warning) => 1,
            Some(Severity::Fault) => 2,
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let severity = match finding.severity {
                Severity::Fault => "fault",
                Severity::Warning => "warning",
                Severity::Note => "note",
            };
            let mend = match &finding.mend {
                Mend::Command(command) => format!("# {command}"),
                Mend::Words(words) => words.clone(),
            };
            let (check, found) = (finding.check, clean(&finding.found));
            text += &format!("{severity:<8} {check}: {found}\n");
            text += &format!("    why   {}\n    mend  {}\n\n", finding.why, clean(&mend));
        }
        text + &self.summary()
    }

    fn summary(&self) -> String {
        let of = match self.role {
            Balancer => "a balancer",
            RealServer => "a real server",
        };
        let made = format!("{} checks made, as of {of}", self.checks);
        let count = |severity, one: &str| {
            let those = self
                .findings
                .iter()
                .filter(|finding| finding.severity == severity);
            match those.count() {
                0 => None,
                1 => Some(format!("1 {one}")),
                several => Some(format!("{several} {one}s")),
            }
        };
        let said = match self.exit_code() {
            0 => Some("nothing wrong".to_owned()),
            _ => None,
        };
        let counts = [
            said,
            count(Severity::Fault, "fault"),
            count(Severity::Warning, "warning"),
            count(Severity::Note, "note"),
        ];
        let counts: Vec<_> = counts.into_iter().flatten().collect();
        format!("{}: {made}", counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_shown_on_a_host_that_is_broken_for_real() {
        // The kernels that we have were all built with TCP and UDP.
        const NOT_SHOWN: &[&str] = &["ipvs-protocol"];
        let shown = [
            include_str!("../integration/doctor.rs"),
            include_str!("../integration/kernel/doctor.rs"),
        ]
        .concat();
        for check in CHECKS {
            let is_expected =
                |severity: &&str| shown.contains(&format!("\"{severity} {}\"", check.name));
            let severities = ["fault", "warning", "note"];
            assert_eq!(
                severities.iter().any(is_expected),
                !NOT_SHOWN.contains(&check.name),
                "integration/doctor.rs and kernel/doctor.rs break what {} finds",
                check.name
            );
        }
    }

    #[test]
    fn the_report_says_the_worst_first() {
        let finding = |check, severity| Finding {
            check,
            severity,
            found: format!("{check} is off"),
            why: "clients wait",
            mend: command("true"),
        };
        let mut report = Report {
            role: Balancer,
            checks: 9,
            findings: vec![finding("x", Severity::Fault), finding("y", Severity::Note)],
        };
        assert_eq!(report.exit_code(), 2);
        let expected = "\
fault    x: x is off
    why   clients wait
    mend  # true

note     y: y is off
    why   clients wait
    mend  # true

1 fault, 1 note: 9 checks made, as of a balancer";
        assert_eq!(report.text(), expected);
        report.findings.remove(0);
        assert_eq!(report.exit_code(), 0);
        assert!(
            report
                .text()
                .ends_with("nothing wrong, 1 note: 9 checks made, as of a balancer")
        );
        report.findings.clear();
        assert_eq!(
            report.text(),
            "nothing wrong: 9 checks made, as of a balancer"
        );
    }
}
