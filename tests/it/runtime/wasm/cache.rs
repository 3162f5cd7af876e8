//! Compiled code on disk: kept for the next start, where nobody else writes, and not for ever.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    super::{components::conform, folder},
    MANIFEST, pelton,
};

#[test]
fn a_component_is_compiled_once_and_kept_where_nobody_else_writes() {
    let folder = folder();
    fs::copy(conform(), folder.join("f.wasm")).unwrap();
    fs::write(folder.join("pelton.yaml"), MANIFEST).unwrap();
    let invoke = || {
        let said = pelton(&folder, &["invoke", "f"]);
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(text.contains("good day"), "{text}{}", String::from_utf8_lossy(&said.stderr));
    };
    let kept = |place: &str| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(folder.join(place)) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    invoke();
    let files = kept("cache/pelton");
    assert_eq!(files.len(), 1);
    let first = fs::metadata(&files[0]).unwrap();
    invoke();
    assert_eq!(kept("cache/pelton"), files);
    assert_eq!(fs::metadata(&files[0]).unwrap().ino(), first.ino(), "it was compiled again");
    assert_eq!(first.mode() & 0o777, 0o600);

    fs::write(&files[0], "no code").unwrap();
    invoke();
    assert_ne!(fs::metadata(&files[0]).unwrap().ino(), first.ino(), "a broken one is replaced");

    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.join("cache/pelton"), all).unwrap();
    fs::remove_file(&files[0]).unwrap();
    invoke();
    assert_eq!(kept("cache/pelton"), Vec::<PathBuf>::new(), "others could write there");
    assert_eq!(kept(".cache/pelton").len(), 1);
}

#[test]
fn compiled_code_that_nobody_uses_goes() {
    let folder = folder();
    fs::copy(conform(), folder.join("f.wasm")).unwrap();
    fs::write(folder.join("pelton.yaml"), MANIFEST).unwrap();
    let invoke = || assert_eq!(pelton(&folder, &["invoke", "f"]).status.code(), Some(0));
    invoke();
    let cache = folder.join("cache/pelton");
    let mut entries = fs::read_dir(&cache).unwrap();
    let own = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    let (day, now) = (Duration::from_secs(24 * 60 * 60), SystemTime::now());
    let file = |name: &str, age: Duration, size: u64| {
        let path = cache.join(name);
        let file = fs::File::options().create(true).append(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        file.set_modified(now - age).unwrap();
        path
    };
    let name =
        |digit: &str, kind: &str| format!("{}-{}.{kind}", digit.repeat(64), digit.repeat(16));
    let gone = [
        file(&name("a", "cwasm"), 31 * day, 1),
        file(&name("a", "4711-0"), 31 * day, 1),
        // Too much, together with what was used later.
        file(&name("b", "cwasm"), 2 * day, 2 << 30),
    ];
    let stays = [
        file(&name("c", "cwasm"), day, 2 << 20),
        file(&name("d", "cwasm"), 29 * day, 0),
        file("notes.txt", 90 * day, 1),
        file("other.cwasm", 90 * day, 1),
    ];
    let used = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    fs::File::open(&own).unwrap().set_modified(now - 20 * day).unwrap();
    let first = fs::metadata(&own).unwrap();
    invoke();
    for path in &gone {
        assert!(!path.exists(), "{} stays", path.display());
    }
    for path in &stays {
        assert!(path.exists(), "{} is gone", path.display());
    }
    assert!(now.duration_since(used(&own)).is_err(), "its use is noted");
    assert_eq!(fs::metadata(&own).unwrap().ino(), first.ino(), "it was not compiled again");
}
