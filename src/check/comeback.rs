//! What a server's checks make of it over time: what it is taken for before they have said something, how often it
//! may come back, and how fast it gets its share of the traffic then. Settings alone; who obeys them is `pool`.

use std::time::Duration;

use serde::Serialize;

/// Of `[service.NAME]`; without any of it, a start as the kernel's table has it and no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comeback {
    pub start: Start,
    pub flap_hold: Option<FlapHold>,
    /// How long a server's weight takes from 1 to what it shall be; `None`: no time.
    pub slow_start: Option<Duration>,
}

/// `start`: what a server is taken for until its checks have said something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Up, as soon as it has an address; PyBal's.
    Up,
    /// Not up, though the kernel may have it.
    Down,
    /// What the kernel had when we came is up, anything else is not.
    #[default]
    Last,
}

/// `[service.NAME.flap-hold]`: a server that goes down again and again stays down for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlapHold {
    /// So many times down, at least one...
    pub transitions: u32,
    /// ...within this time...
    pub within: Duration,
    /// ...and it stays down so long from the last one, each next time twice as long...
    pub hold: Duration,
    /// ...up to this, no shorter than `hold`. After as long without a hold it begins anew.
    pub longest: Duration,
}
