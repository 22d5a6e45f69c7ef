//! The verbs on whole stores: a copy of a running one, a new one from a copy, and the verification of one at rest.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use super::{
    context::Context,
    errors::CliError,
    output::{Format, Output},
};
use crate::{
    clock::{Clock, SystemClock},
    private_files::NewFile,
    proto::{BackupRequest, BackupResponse},
    store::sqlite::{
        check::{self, CheckReport},
        restore, vacuum,
    },
};

/// What `backup` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad backup sagad-2026-11-22.db\n  sagad backup /mnt/backups/sagad.db --force")]
pub struct BackupArgs {
    /// The file to make.
    file: PathBuf,
    /// Replace the file if it exists.
    #[arg(long)]
    force: bool,
}

/// Writes a consistent copy of the running store to a file. The file has its name only once it is whole and synced.
pub async fn backup(context: &Context, args: BackupArgs) -> Result<(), CliError> {
    if args.file.symlink_metadata().is_ok() && !args.force {
        return Err(exists_already(&args.file));
    }
    // With a random name until it is whole, so that two backups to one name don't disturb each other. Half a copy is of no
    // use to anyone: on each way out but one its file is removed.
    let mut partial = NewFile::next_to(&args.file).map_err(at(&args.file))?;
    let (bytes, revision) = receive(context, &mut partial).await?;
    partial.place(args.force).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists_already(&args.file),
        _ => at(&args.file)(error),
    })?;
    let file = args.file.display().to_string();
    match context.output.format() {
        Format::Json => context.output.line(&json!({"file": file, "bytes": bytes, "revision": revision}).to_string()),
        Format::Text => context.output.line(&format!("{file}: {bytes} bytes, up to revision {revision}")),
    }
}

fn exists_already(file: &Path) -> CliError {
    CliError::Failed(format!("{} exists already; --force replaces it", file.display()))
}

async fn receive(context: &Context, partial: &mut NewFile) -> Result<(u64, i64), CliError> {
    let mut pieces = context.client.admin().backup(BackupRequest {}).await?.into_inner();
    let path = partial.path().to_owned();
    let file = partial.file();
    let (mut bytes, mut last) = (0, BackupResponse::default());
    while let Some(piece) = pieces.message().await? {
        file.write_all(&piece.chunk).map_err(at(&path))?;
        bytes += piece.chunk.len() as u64;
        last = piece;
    }
    if i64::try_from(bytes) != Ok(last.total_bytes) {
        return Err(CliError::Failed(format!("the copy ended after {bytes} of {} bytes", last.total_bytes)));
    }
    Ok((bytes, last.revision))
}

/// What `restore` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad restore sagad-2026-11-22.db --data ./sagad-data\n\n\
                  The directory must hold no store. Tokens and revisions continue far above the copy's, so that none \
                  that was given after the copy was made is given again; watchers begin anew.")]
pub struct RestoreArgs {
    /// The copy, made by `sagad backup`.
    file: PathBuf,
    /// The directory for the new store.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Makes a store from a copy.
pub fn restore(output: &Output, args: &RestoreArgs) -> Result<(), CliError> {
    let now = SystemClock::start().now();
    let restored =
        restore::restore(&args.file, &args.data, now).map_err(|error| CliError::Failed(error.to_string()))?;
    let (report, next) = (&restored.report, restored.next_revision.0);
    let data = args.data.display().to_string();
    match output.format() {
        Format::Json => output.line(
            &json!({"data": data, "sagas": report.sagas, "events": report.events, "nextRevision": next}).to_string(),
        ),
        Format::Text => output.line(&format!(
            "{data}: {} sagas, {} events; tokens and revisions go on from {next}",
            report.sagas, report.events
        )),
    }
}

/// What `check` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad check --data ./sagad-data\n\nThe daemon must not be running on it. \
                  Nothing is changed. Exit code 1 when something is wrong.")]
pub struct CheckArgs {
    /// The store's directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Verifies a store at rest.
pub fn check(output: &Output, args: &CheckArgs) -> Result<(), CliError> {
    let report = check::check(&args.data).map_err(|error| CliError::Failed(error.to_string()))?;
    print_report(output, &report)?;
    match report.problem_count {
        0 => Ok(()),
        1 => Err(CliError::Failed("the store has a problem; keep a copy of it, and restore a backup".into())),
        many => {
            Err(CliError::Failed(format!("the store has {many} problems; keep a copy of it, and restore a backup")))
        }
    }
}

/// What `vacuum` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad vacuum --data ./sagad-data\n\nThe daemon must not be running on it. \
                  The store is written to a new file, so the disk needs room for twice the content. If this is \
                  interrupted, the store is unchanged. A store that version 0.1.0 made shrinks by itself from then on.")]
pub struct VacuumArgs {
    /// The store's directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Gives back what room a store at rest does not need.
pub fn vacuum(output: &Output, args: &VacuumArgs) -> Result<(), CliError> {
    let vacuumed = vacuum::vacuum(&args.data).map_err(|error| CliError::Failed(error.to_string()))?;
    let (before, after, data) = (vacuumed.before, vacuumed.after, args.data.display().to_string());
    match output.format() {
        Format::Json => output.line(&json!({"data": data, "bytesBefore": before, "bytes": after}).to_string()),
        Format::Text => output.line(&format!("{data}: {after} bytes, {before} before")),
    }
}

fn print_report(output: &Output, report: &CheckReport) -> Result<(), CliError> {
    match output.format() {
        Format::Json => output.line(
            &json!({
                "sagas": report.sagas,
                "events": report.events,
                "revision": report.head.0,
                "bytes": report.bytes,
                "freeBytes": report.free_bytes,
                "problemCount": report.problem_count,
                "problems": report.problems,
            })
            .to_string(),
        ),
        Format::Text => {
            report.problems.iter().try_for_each(|problem| output.line(problem))?;
            if report.has_much_room() {
                let mib = |bytes: u64| bytes.div_ceil(1 << 20);
                let (free, all) = (mib(report.free_bytes), mib(report.bytes));
                output.line(&format!(
                    "{free} of {all} MiB are unused; a store of this version gives them back by itself, and `sagad vacuum` does so at \
                     once"
                ))?;
            }
            let verdict = if report.problem_count == 0 { "nothing is wrong" } else { "damaged" };
            output.line(&format!(
                "{} sagas, {} events, up to revision {}: {verdict}",
                report.sagas, report.events, report.head
            ))
        }
    }
}

/// An error with the file that it is about.
fn at(path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let path = path.display().to_string();
    move |error| CliError::Failed(format!("{path}: {error}"))
}
