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
    /// A service that takes CloudEvents over HTTP.
    Http,
    /// A handler for AWS Lambda, in Python.
    Lambda,
    /// A WebAssembly component, in Rust.
    Rust,
}

/// A file of a template: its name and its text.
type File = (&'static str, &'static str);

impl Template {
    const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Exec => "exec",
            Self::Http => "http",
            Self::Lambda => "lambda",
            Self::Rust => "rust",
        }
    }

    /// What it takes before `pelton dev`.
    const fn first(self) -> Option<&'static str> {
        match self {
            Self::Python | Self::Node | Self::Exec => None,
            Self::Http => Some("python3 service.py &"),
            Self::Lambda => {
                Some("python3 -m venv .venv && .venv/bin/pip install -r requirements.txt")
            }
            Self::Rust => Some(
                "rustup target add wasm32-wasip2\n  cargo build --release --target wasm32-wasip2",
            ),
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
            Self::Http => &[
                ("pelton.yaml", include_str!("new/http/pelton.yaml")),
                ("service.py", include_str!("new/http/service.py")),
            ],
            Self::Lambda => &[
                ("pelton.yaml", include_str!("new/lambda/pelton.yaml")),
                ("app.py", include_str!("new/lambda/app.py")),
                ("requirements.txt", include_str!("new/lambda/requirements.txt")),
                (".gitignore", include_str!("new/lambda/gitignore")),
            ],
            Self::Rust => &[
                ("pelton.yaml", include_str!("new/rust/pelton.yaml")),
                ("Cargo.toml", include_str!("new/rust/Cargo.toml.template")),
                ("src/lib.rs", include_str!("new/rust/lib.rs")),
                ("wit/event.wit", include_str!("../../functions/wit/event.wit")),
                (".gitignore", include_str!("new/rust/gitignore")),
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
    for (name, text) in files {
        let path = folder.join(name);
        if let Some(inside) = path.parent() {
            fs::create_dir_all(inside).map_err(|err| cannot_write(inside, &err))?;
        }
        // Never over a file that appeared meanwhile.
        fs::File::create_new(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|err| cannot_write(&path, &err))?;
        say!("  {}", path.display());
    }
    say!("\nnext:\n  cd {}", folder.display());
    if let Some(first) = args.template.first() {
        say!("  {first}");
    }
    say!("  pelton dev");
    say!("and in another terminal, in the same folder:");
    say!("  pelton send people.arrived '{{\"name\": \"Lester\"}}'");
    Ok(ExitCode::SUCCESS)
}

fn cannot_write(path: &Path, err: &std::io::Error) -> Failure {
    Failure::Problem(format!("{}: {err}", path.display()))
}
