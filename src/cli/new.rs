//! `pelton new`: a small working project to begin with.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::ValueEnum;

use super::{Failure, terminal::say};

/// Arguments of `pelton new`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  pelton new python greeter && cd greeter && pelton dev")]
pub(super) struct Args {
    /// What to begin with.
    #[arg(value_enum)]
    template: Template,

    /// The folder to write into; made when missing [default: the template's name].
    folder: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// A function in Python.
    Python,
    /// A function in JavaScript, on Node.
    Node,
    /// Any program, one process per event; here a shell script.
    Exec,
}

/// A file of a template: its name and its text.
type File = (&'static str, &'static str);

impl Template {
    const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Exec => "exec",
        }
    }

    const fn files(self) -> &'static [File] {
        match self {
            Self::Python => &[
                ("pelton.yaml", include_str!("new/python/pelton.yaml")),
                ("greet.py", include_str!("new/python/greet.py")),
            ],
            Self::Node => &[
                ("pelton.yaml", include_str!("new/node/pelton.yaml")),
                ("greet.mjs", include_str!("new/node/greet.mjs")),
            ],
            Self::Exec => &[
                ("pelton.yaml", include_str!("new/exec/pelton.yaml")),
                ("greet.sh", include_str!("new/exec/greet.sh")),
            ],
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let folder = args.folder.clone().unwrap_or_else(|| PathBuf::from(args.template.name()));
    let files = args.template.files();
    if let Some((name, _)) = files.iter().find(|(name, _)| folder.join(name).exists()) {
        return Err(Failure::Usage(format!(
            "{} is there already: name another folder",
            folder.join(name).display()
        )));
    }
    fs::create_dir_all(&folder).map_err(|err| cannot_write(&folder, &err))?;
    for (name, text) in files {
        let path = folder.join(name);
        // Never over a file that appeared meanwhile.
        fs::File::create_new(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|err| cannot_write(&path, &err))?;
        say!("  {}", path.display());
    }
    say!("\nnext:\n  cd {}\n  pelton dev", folder.display());
    say!("and in another terminal, in the same folder:");
    say!("  pelton send people.arrived '{{\"name\": \"Lester\"}}'");
    Ok(ExitCode::SUCCESS)
}

fn cannot_write(path: &Path, err: &std::io::Error) -> Failure {
    Failure::Problem(format!("{}: {err}", path.display()))
}
