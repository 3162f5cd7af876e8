//! A payload in somebody's editor.

use std::{fs, process::Command};

use bytes::Bytes;

use super::Failure;
use pelton::nats::StoredLetter;

/// The payload as `$VISUAL` or `$EDITOR` leaves it; `None` when nothing was changed.
pub(super) fn edit(letter: &StoredLetter) -> Result<Option<Bytes>, Failure> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
        .ok_or_else(|| Failure::Usage("`--edit` needs an editor: set EDITOR".to_owned()))?;
    let name = format!("pelton-letter-{}-{}.txt", letter.sequence, std::process::id());
    let path = std::env::temp_dir().join(name);
    let failed = |err: std::io::Error| Failure::Problem(format!("{}: {err}", path.display()));
    fs::write(&path, &letter.data).map_err(failed)?;
    // As git does: the editor may come with arguments.
    let ended = Command::new("sh").args(["-c", &format!("{editor} \"$0\"")]).arg(&path).status();
    let edited = fs::read(&path).map_err(failed);
    fs::remove_file(&path).map_err(failed)?;
    match ended {
        Ok(status) if status.success() => {}
        Ok(status) => return Err(Failure::Problem(format!("{editor} ended with {status}"))),
        Err(err) => return Err(Failure::Problem(format!("{editor}: {err}"))),
    }
    let edited = Bytes::from(edited?);
    Ok((edited != letter.data).then_some(edited))
}
