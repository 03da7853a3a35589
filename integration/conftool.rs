//! The real conftool, in a virtual environment of the tests' own: from PyPI, once, below `target`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::fcntl::{Flock, FlockArg};

/// The one whose output and effect are compared with.
const PACKAGE: &str = "conftool==6.1.0";

/// conftool, set up for one etcd (its v2 API).
pub(crate) struct Conftool {
    programs: PathBuf,
    folder: tempfile::TempDir,
}

impl Conftool {
    /// For the endpoint `http://127.0.0.1:PORT`.
    pub(crate) fn new(endpoint: &str) -> Conftool {
        let folder = tempfile::tempdir().expect("a folder");
        let port = endpoint.rsplit(':').next().expect("a port");
        let etcdrc = folder.path().join("etcdrc");
        let text = format!("host: 127.0.0.1\nport: {port}\nprotocol: http\n");
        fs::write(&etcdrc, text).expect("a file");
        let config = format!(
            "driver_options: {{etcd_config_file: {}}}\n",
            etcdrc.display()
        );
        fs::write(folder.path().join("config.yaml"), config).expect("a file");
        Conftool {
            programs: environment().join("bin"),
            folder,
        }
    }

    /// `conftool-sync --directory DIRECTORY`.
    pub(crate) fn sync(&self, directory: &Path) -> Output {
        let run = Command::new(self.programs.join("conftool-sync"))
            .args(["--config".as_ref(), self.config().as_os_str()])
            .args(["--directory".as_ref(), directory.as_os_str()])
            .args(["--schema".as_ref(), self.schema().as_os_str()])
            .output();
        run.expect("it is installed")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// None: the types that conftool has of itself.
    fn schema(&self) -> PathBuf {
        self.folder.path().join("none.yaml")
    }
}

/// The virtual environment; made by whoever needs it first.
fn environment() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let environment = target.join("conftool");
    let done = environment.join("installed");
    let file = File::create(target.join("conftool.lock")).expect("a lock");
    let lock = Flock::lock(file, FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, error)| error).expect("a lock");
    if fs::read_to_string(&done).is_ok_and(|text| text == PACKAGE) {
        return environment;
    }
    let run = |command: &mut Command| {
        let output = command.output().expect("Debian's python3-venv");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
    };
    let python = || Command::new("python3");
    run(python().args(["-m", "venv"]).arg(&environment));
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", PACKAGE]));
    fs::write(&done, PACKAGE).expect("a file");
    environment
}
