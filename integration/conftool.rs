//! The real conftool, in a virtual environment of the tests' own: from PyPI, once, below `target`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
        let port = endpoint.rsplit(':').next().expect("a port");
        Conftool::with(&format!("host: 127.0.0.1\nport: {port}\nprotocol: http\n"))
    }

    /// For what its file `etcdrc` says.
    pub(crate) fn with(text: &str) -> Conftool {
        let folder = tempfile::tempdir().expect("a folder");
        let etcdrc = folder.path().join("etcdrc");
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

    /// `confctl ARGUMENTS`, with yes for an answer to each question.
    pub(crate) fn confctl(&self, arguments: &[&str]) -> Output {
        let mut run = Command::new(self.programs.join("confctl"))
            .args(["--config".as_ref(), self.config().as_os_str()])
            .args(["--schema".as_ref(), self.schema().as_os_str()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it is installed");
        let mut answers = run.stdin.take().expect("a pipe");
        // Who asks nothing may have ended before it was answered.
        drop(answers.write_all(b"y\n"));
        drop(answers);
        run.wait_with_output().expect("it ends")
    }

    /// A program in Python that has conftool to import; the configuration is its first argument.
    pub(crate) fn python(&self, program: &str) -> Output {
        let run = Command::new(self.programs.join("python"))
            .args(["-c", program])
            .arg(self.config())
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
pub(crate) fn environment() -> PathBuf {
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
