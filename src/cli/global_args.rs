//! The options that every client command takes: how the coordinator is reached, and in which form results are printed.

use std::{path::PathBuf, time::Duration};

use super::{args, output::OutputArg};
use crate::client::{ClientOptions, connect::DEFAULT_SERVER};

/// What every client command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct GlobalArgs {
    /// The coordinator's address: http://HOST:PORT, https://HOST:PORT, or unix:PATH for a socket.
    #[arg(long, global = true, env = "SAGAD_SERVER", default_value = DEFAULT_SERVER, value_name = "URL", help_heading = "Global options")]
    server: String,
    /// Whether that was named on the command line: load is put on nobody's daemon by a variable.
    #[arg(skip)]
    pub server_named: bool,
    /// File with the CAs that the coordinator's certificate may come from [default: this machine's CAs].
    #[arg(long, global = true, env = "SAGAD_CA", value_name = "FILE", help_heading = "Global options")]
    ca: Option<PathBuf>,
    /// File with your certificate, for coordinators that require one.
    #[arg(long, global = true, env = "SAGAD_CERT", value_name = "FILE", help_heading = "Global options")]
    cert: Option<PathBuf>,
    /// File with the private key of your certificate.
    #[arg(long, global = true, env = "SAGAD_KEY", value_name = "FILE", help_heading = "Global options")]
    key: Option<PathBuf>,
    /// File with your token, for coordinators that authenticate their callers.
    #[arg(long, global = true, env = "SAGAD_TOKEN_FILE", value_name = "FILE", help_heading = "Global options")]
    token_file: Option<PathBuf>,
    /// Send the token also over http:// to other machines.
    #[arg(long, global = true, help_heading = "Global options")]
    insecure_token: bool,
    /// Form of the output: text that fits the terminal, text with all columns, or proto3 JSON, one object per line.
    #[arg(short, long, global = true, value_enum, default_value = "text", help_heading = "Global options")]
    pub output: OutputArg,
    /// How long one call may take, 1ms to 24h.
    #[arg(long, global = true, default_value = "10s", value_parser = args::timeout, value_name = "DURATION", help_heading = "Global options")]
    pub timeout: Duration,
}

impl GlobalArgs {
    /// How the coordinator is reached.
    pub fn options(&self) -> ClientOptions {
        ClientOptions {
            server: self.server.clone(),
            timeout: self.timeout,
            ca: self.ca.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            token_file: self.token_file.clone(),
            insecure_token: self.insecure_token,
        }
    }

    /// The same if `--server` is on the command line.
    pub fn named_server(&self) -> Option<ClientOptions> {
        self.server_named.then(|| self.options())
    }
}
