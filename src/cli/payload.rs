//! An event given on the command line.

use std::{io::Read as _, path::Path};

use bytes::Bytes;

use super::Failure;
use pelton::event::Headers;

/// The payload: a file's content, standard input for `-`, or the text itself.
pub(super) fn read(data: Option<&str>, file: Option<&Path>) -> Result<Bytes, Failure> {
    match (file, data) {
        (Some(path), _) => std::fs::read(path)
            .map(Bytes::from)
            .map_err(|err| Failure::Usage(format!("{}: {err}", path.display()))),
        (None, Some("-")) => {
            let mut data = Vec::new();
            std::io::stdin()
                .read_to_end(&mut data)
                .map_err(|err| Failure::Usage(format!("standard input: {err}")))?;
            Ok(Bytes::from(data))
        }
        (None, data) => Ok(Bytes::from(data.unwrap_or_default().to_owned())),
    }
}

/// Headers written as `name: value`.
pub(super) fn headers(written: &[String]) -> Result<Headers, Failure> {
    let mut headers = Headers::new();
    for text in written {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| Failure::Usage(format!("header `{text}`: write it as `name: value`")))?;
        headers.append(name.trim().to_owned(), value.trim());
    }
    Ok(headers)
}
