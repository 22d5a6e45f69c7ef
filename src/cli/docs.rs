//! `sagad completions` and `sagad man`: generated from the same definition that parses the command line.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::errors::CliError;
use crate::private_files;

/// What `completions` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sagad completions bash > /etc/bash_completion.d/sagad\n  sagad completions zsh > ~/.zfunc/_sagad"
)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints a completion script for a command line.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "sagad", &mut script);
    print(&script)
}

/// What `man` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad man | man -l -\n  sagad man --dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write a page for each command into this directory instead.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Prints the manual page of a command line, or writes all of them.
pub fn man(args: &ManArgs, command: Command) -> Result<(), CliError> {
    if let Some(dir) = &args.dir {
        let failed = |error: std::io::Error| CliError::Failed(format!("can't write to {}: {error}", dir.display()));
        return write_pages(dir, command).map_err(failed);
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    print(&page)
}

/// The generator follows links and overwrites what it finds, so it writes into a directory of ours.
fn write_pages(dir: &Path, command: Command) -> io::Result<()> {
    let made = private_files::temporary_directory(&env::temp_dir(), "sagad-man-")?;
    clap_mangen::generate_to(command, made.path())?;
    private_files::create_public_directories(dir)?;
    for page in fs::read_dir(made.path())? {
        let page = page?;
        private_files::write_public(&dir.join(page.file_name()), &fs::read(page.path())?)?;
    }
    Ok(())
}

fn print(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_manual_page_is_written_for_each_command() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        man(&ManArgs { dir: Some(dir.path().to_owned()) }, crate::cli::Cli::command()).expect("written");
        for page in ["sagad.1", "sagad-work.1", "sagad-compensate.1", "sagad-config-show.1"] {
            assert!(dir.path().join(page).exists(), "{page}");
        }
    }
}
