//! The files that functions are made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{Manifest, Runtime};

impl Manifest {
    /// The files whose change is one of a function, by the names of functions: its own, and for Python
    /// and Node the modules in the same folder that are no function's own. What they import from
    /// elsewhere is not among them.
    #[must_use]
    pub fn sources(&self) -> BTreeMap<&str, Vec<PathBuf>> {
        let own = self
            .functions
            .values()
            .filter_map(|function| Some((function, function.runtime.source(&function.cwd)?)));
        let own: Vec<_> = own.collect();
        let taken: BTreeSet<&Path> = own.iter().map(|(_, file)| file.as_path()).collect();
        // Each folder is read once, however many functions are in it.
        let mut folders = BTreeMap::<&Path, Vec<PathBuf>>::new();
        let mut sources = BTreeMap::new();
        for (function, file) in &own {
            let endings = endings(&function.runtime);
            let mut files = vec![file.clone()];
            if let Some(folder) = file.parent().filter(|_| !endings.is_empty()) {
                let beside = folders.entry(folder).or_insert_with(|| others(folder, &taken));
                files.extend(beside.iter().filter(|file| ends_in(file, endings)).cloned());
            }
            sources.insert(function.name.as_str(), files);
        }
        sources
    }
}

/// What the files of modules end in.
const fn endings(runtime: &Runtime) -> &'static [&'static str] {
    match runtime {
        Runtime::Python(_) => &["py"],
        Runtime::Node(_) => &["js", "mjs", "cjs"],
        _ => &[],
    }
}

fn ends_in(file: &Path, endings: &[&str]) -> bool {
    file.extension().and_then(|ending| ending.to_str()).is_some_and(|it| endings.contains(&it))
}

/// What a folder holds besides files that are taken, in order.
fn others(folder: &Path, taken: &BTreeSet<&Path>) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut others: Vec<PathBuf> = found.filter(|path| !taken.contains(path.as_path())).collect();
    others.sort();
    others
}
