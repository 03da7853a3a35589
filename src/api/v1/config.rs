//! Which configuration is in force. Not what stands in it: arguments of checks and headers may be secrets, and
//! whoever may read the API need not be one who may read the file.

use schemars::JsonSchema;
use serde::Serialize;

use crate::snapshot::{Mode, OnDisk};

use super::View;
use super::time::Time;

pub(super) fn in_force(view: &View<'_>) -> String {
    let snapshot = view.snapshot;
    let config = &snapshot.config;
    super::body(&Configuration {
        version: env!("CARGO_PKG_VERSION"),
        mode: snapshot.mode,
        stopping: snapshot.stopping,
        hash: config.hash(),
        services: config.services.len(),
        peers: config.bgp.as_ref().map_or(0, |bgp| bgp.peers.len()),
        file: snapshot.config_file.as_deref().map(|file| {
            let (on_disk, mistakes) = match &file.on_disk {
                OnDisk::InForce => (FileState::InForce, None),
                OnDisk::Differs => (FileState::Differs, None),
                OnDisk::Bad(mistakes) => (FileState::Bad, Some(mistakes)),
            };
            File {
                path: file.path.display().to_string(),
                loaded: file.loaded.into(),
                on_disk,
                mistakes: lines(mistakes.map(|mistakes| &**mistakes)),
            }
        }),
        reload_refused: (snapshot.reload_refused.as_deref()).map(|mistakes| lines(Some(mistakes))),
        troubles: (snapshot.troubles.iter())
            .map(|(part, fault)| Trouble {
                part: (*part).to_owned(),
                fault: fault.clone(),
            })
            .collect(),
    })
}

fn lines(text: Option<&str>) -> Vec<String> {
    let lines = text.into_iter().flat_map(str::lines);
    lines.map(str::to_owned).collect()
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Configuration {
    /// Of the program.
    version: &'static str,
    mode: Mode,
    /// The daemon was told to end.
    stopping: bool,
    /// Of what balancers that stand in for each other have in common: `config` in the fleet's records.
    hash: String,
    services: usize,
    peers: usize,
    /// Null: nobody has looked at it yet.
    file: Option<File>,
    /// The mistakes of a reload that was refused, until a good one is loaded. Null: none was.
    reload_refused: Option<Vec<String>>,
    /// Parts of the program that could not do their work.
    troubles: Vec<Trouble>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConfigurationFile")]
struct File {
    path: String,
    /// When what is in force was taken from it.
    loaded: Time,
    /// How it is now.
    on_disk: FileState,
    /// Why a reload would refuse it.
    mistakes: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum FileState {
    /// It says what is in force.
    InForce,
    /// It says something else, and a reload would take it.
    Differs,
    /// A reload would refuse it.
    Bad,
}

#[derive(Serialize, JsonSchema)]
struct Trouble {
    part: String,
    fault: String,
}
