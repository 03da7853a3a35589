//! An error in one text, for a log line or a terminal. Errors here do not repeat what caused them.

use std::error::Error;

/// The error's text, then that of each cause.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
