//! How an error becomes the one line that says why a boot is refused.

use std::error::Error;

/// An error and its causes, from the outside in.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
