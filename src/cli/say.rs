//! What a command says and asks. A reader that went away does not stop a change halfway: the first line
//! that cannot be written is remembered.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use super::exit;

pub(super) struct Say {
    quiet: bool,
    fault: Option<io::Error>,
}

impl Say {
    pub(super) fn new(quiet: bool) -> Say {
        Say { quiet, fault: None }
    }

    /// One line of the answer.
    pub(super) fn line(&mut self, line: &str) {
        let mut out = io::stdout().lock();
        if let Err(fault) = writeln!(out, "{line}").and_then(|()| out.flush()) {
            self.fault.get_or_insert(fault);
        }
    }

    /// Something that the operator had better know, to standard error, unless he is for quiet.
    pub(super) fn note(&self, line: &str) {
        if !self.quiet {
            self.fault(line);
        }
    }

    /// What went wrong, to standard error. If that cannot be written either, there is nobody to tell; the
    /// exit code remains.
    pub(super) fn fault(&self, line: &str) {
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// Asks on the terminal and gives the answer without its blanks; nothing at the end of the input.
    pub(super) fn ask(&mut self, prompt: &str) -> String {
        let mut out = io::stdout().lock();
        if let Err(fault) = write!(out, "{prompt}").and_then(|()| out.flush()) {
            self.fault.get_or_insert(fault);
        }
        let mut answer = String::new();
        // What cannot be read is no consent.
        match io::stdin().lock().read_line(&mut answer) {
            Ok(_) => answer.trim().to_owned(),
            Err(_) => String::new(),
        }
    }

    /// Whether somebody can be asked.
    pub(super) fn is_terminal() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// The command's exit code: this one, unless all is well and yet some of the answer could not be written.
    pub(super) fn exit(self, code: u8) -> ExitCode {
        match &self.fault {
            Some(fault) if code == 0 => {
                self.fault(&format!("cannot write the answer: {fault}"));
                ExitCode::from(exit::OS_ERROR)
            }
            Some(_) | None => ExitCode::from(code),
        }
    }
}
