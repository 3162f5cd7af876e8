//! The files that functions are made of.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Function, Manifest, Runtime};

impl Manifest {
    /// The files whose change is one of the function: its own, and for Python and Node the modules in
    /// the same folder that are no function's own. What they import from elsewhere is not among them.
    #[must_use]
    pub fn sources(&self, function: &Function) -> Vec<PathBuf> {
        let own = function.runtime.source(&function.cwd);
        let modules = own.iter().flat_map(|file| self.modules_beside(file, &function.runtime));
        let modules: Vec<PathBuf> = modules.collect();
        own.into_iter().chain(modules).collect()
    }

    fn modules_beside(&self, file: &Path, runtime: &Runtime) -> Vec<PathBuf> {
        let endings: &[&str] = match runtime {
            Runtime::Python(_) => &["py"],
            Runtime::Node(_) => &["js", "mjs", "cjs"],
            _ => return Vec::new(),
        };
        let Some(found) = file.parent().and_then(|folder| fs::read_dir(folder).ok()) else {
            return Vec::new();
        };
        let is_module = |path: &PathBuf| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            ending.is_some_and(|ending| endings.contains(&ending)) && !self.is_a_functions_own(path)
        };
        let mut modules: Vec<PathBuf> =
            found.filter_map(|entry| Some(entry.ok()?.path())).filter(is_module).collect();
        modules.sort();
        modules
    }

    fn is_a_functions_own(&self, path: &Path) -> bool {
        let own = |function: &Function| function.runtime.source(&function.cwd);
        self.functions.values().filter_map(own).any(|file| file == path)
    }
}
