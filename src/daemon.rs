//! Builds all parts from a configuration, joins them, runs them, and stops them in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::balancer::Balancer;
use crate::cli::exit;
use crate::config::{Config, Mistakes};
use crate::event::{Event, SessionState};
use crate::snapshot::{Mode, Snapshot};
use crate::{address, api, bgp, control, ipvs, monitor, resolver, source};

/// How long peers may take to be told that we go.
const FAREWELL: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    pub mode: Mode,
}
