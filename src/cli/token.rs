//! `sagad token`: a token for a principal, and the entry with its hash. No secret is ever an argument, which other
//! programs on the machine could read.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{
    errors::CliError,
    output::{Format, Output},
};
use crate::{
    domain::{
        ids::{Malformed, QueueName},
        principal::PrincipalName,
    },
    private_files,
    serve::auth::{bearer, principals_file},
};

/// Most that is read as one token.
const TOKEN_BYTES: u64 = 64 << 10;

/// What `token` takes.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  sagad token ci --role worker --queue builds --out ci.token 2>> principals.toml\n  \
                  sagad token jo --role operator > jo.token\n  sagad token hash < ci.token\n\n\
                  The token goes to stdout, or into the file; its principal's entry, with the hash, to stderr. The\n\
                  coordinator has only the hash, so a lost token has to be replaced."
)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    /// The principal's name: up to 64 letters, digits and . _ : / @ + -
    #[arg(required = true)]
    name: Option<String>,
    /// Its roles, as in its entry; repeatable.
    #[arg(long = "role", value_enum, value_name = "ROLE", default_value = "reader")]
    roles: Vec<Role>,
    /// The queues of a worker, or '*' for all; repeatable, or separated by commas.
    #[arg(long = "queue", value_delimiter = ',', value_name = "QUEUE")]
    queues: Vec<String>,
    /// Write the token to a new file that nobody else can read.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print the hash of a token that is read from standard input.
    #[command(after_help = "Examples:\n  sagad token hash < ci.token")]
    Hash,
}

/// What a principal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    Worker,
    Operator,
    Reader,
    Admin,
}

impl Role {
    fn name(self) -> &'static str {
        use crate::domain::principal::Role as Of;
        match self {
            Role::Worker => Of::Worker.name(),
            Role::Operator => Of::Operator.name(),
            Role::Reader => Of::Reader.name(),
            Role::Admin => Of::Admin.name(),
        }
    }
}

/// Makes a token, or hashes one.
///
/// # Errors
/// A name that is none, a worker without queues, a file that is there already.
pub fn run(output: &Output, args: &TokenArgs) -> Result<(), CliError> {
    match &args.command {
        Some(TokenCommand::Hash) => hash(output),
        None => make(output, args),
    }
}

fn make(output: &Output, args: &TokenArgs) -> Result<(), CliError> {
    let wrong = |what: &str, why: &str| CliError::Usage(format!("{what} {why}"));
    let name = PrincipalName::parse(args.name.as_deref().unwrap_or_default())
        .map_err(|Malformed(why)| wrong("the name", &why))?;
    if name.is_the_coordinators() {
        return Err(wrong("the name", "is the coordinator's own in the history: choose another"));
    }
    let token = bearer::make_token(name.as_str(), &rand::random());
    let hash = principals_file::format_hash(&bearer::hash_token(token.as_bytes()));
    let entry = entry(&name, args, &hash)?;
    if let Some(path) = &args.out {
        write_new(path, &token)?;
    }
    match (output.format(), &args.out) {
        (Format::Json, None) => output.line(&json!({ "token": token, "hash": hash, "entry": entry }).to_string()),
        (Format::Json, Some(path)) => {
            let path = path.display().to_string();
            output.line(&json!({ "file": path, "hash": hash, "entry": entry }).to_string())
        }
        (Format::Text, out) => {
            std::io::stderr().write_all(entry.as_bytes())?;
            if out.is_none() { output.line(&token) } else { Ok(()) }
        }
    }
}

/// The lines for the file of principals.
fn entry(name: &PrincipalName, args: &TokenArgs, hash: &str) -> Result<String, CliError> {
    let list = |words: &mut dyn Iterator<Item = &str>| {
        let words: Vec<String> = words.map(|word| format!("\"{word}\"")).collect();
        format!("[{}]", words.join(", "))
    };
    let mut roles: Vec<&str> = Vec::new();
    args.roles.iter().map(|role| role.name()).for_each(|role| {
        if !roles.contains(&role) {
            roles.push(role);
        }
    });
    let queues = match (args.roles.contains(&Role::Worker), args.queues.as_slice()) {
        (true, []) => return Err(CliError::Usage("a worker needs --queue, or --queue '*' for all".to_owned())),
        (false, [_, ..]) => return Err(CliError::Usage("--queue is for --role worker".to_owned())),
        (false, []) => String::new(),
        (true, [all]) if all == "*" => "queues = \"*\"\n".to_owned(),
        (true, queues) => {
            for queue in queues {
                QueueName::parse(queue)
                    .map_err(|Malformed(why)| CliError::Usage(format!("the queue {queue:?} {why}")))?;
            }
            format!("queues = {}\n", list(&mut queues.iter().map(String::as_str)))
        }
    };
    let roles = list(&mut roles.into_iter());
    Ok(format!("[[principal]]\nname = \"{name}\"\nroles = {roles}\n{queues}tokens = [\"{hash}\"]\n"))
}

/// A file that was not there, and that its owner alone can read.
fn write_new(path: &Path, token: &str) -> Result<(), CliError> {
    let failed = |error: std::io::Error| {
        let hint =
            if error.kind() == std::io::ErrorKind::AlreadyExists { ": remove it first, or choose another" } else { "" };
        CliError::Failed(format!("can't write {}: {error}{hint}", path.display()))
    };
    // Under its name from the beginning, so that a second one fails at once; a token cut short by a crash is no token.
    let mut file = private_files::create_new(path).map_err(failed)?;
    let synced = writeln!(file, "{token}").and_then(|()| file.sync_all());
    synced.and_then(|()| private_files::sync_directory(private_files::directory_of(path))).map_err(failed)
}

fn hash(output: &Output) -> Result<(), CliError> {
    let mut text = String::new();
    std::io::stdin().take(TOKEN_BYTES).read_to_string(&mut text)?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CliError::Usage("standard input holds no token: one word on one line".to_owned()));
    }
    let hash = principals_file::format_hash(&bearer::hash_token(token.as_bytes()));
    match output.format() {
        Format::Json => output.line(&json!({ "hash": hash }).to_string()),
        Format::Text => output.line(&hash),
    }
}
