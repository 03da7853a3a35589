//! See the library: this only hands it the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    plimsoll::cli::main(std::env::args_os())
}
