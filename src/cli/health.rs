//! `sagad health`: the standard health check, for probes.

use clap::Args;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{context::Context, errors::CliError, output::Format};

/// What `health` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad health\n  sagad health --service sagad.v1.SagaService --timeout 1s\n\n\
                        Exit codes: 0 serving, 1 not serving, 5 unreachable.")]
pub struct HealthArgs {
    /// A service such as sagad.v1.SagaService [default: the whole server]
    #[arg(long, default_value = "", hide_default_value = true)]
    service: String,
}

/// Asks whether the server is serving. Once: a probe has its own ideas about trying again.
pub async fn run(context: &Context, args: HealthArgs) -> Result<(), CliError> {
    let request = context.client.unary(HealthCheckRequest { service: args.service });
    let answer = context.client.health().check(request).await?.into_inner();
    let (name, word) = match answer.status() {
        ServingStatus::Serving => ("SERVING", "serving"),
        ServingStatus::NotServing => ("NOT_SERVING", "not serving"),
        ServingStatus::ServiceUnknown => ("SERVICE_UNKNOWN", "unknown"),
        ServingStatus::Unknown => ("UNKNOWN", "unknown"),
    };
    match context.output.format() {
        Format::Json => context.output.line(&format!("{{\"status\":\"{name}\"}}"))?,
        Format::Text => context.output.line(word)?,
    }
    if answer.status() == ServingStatus::Serving {
        Ok(())
    } else {
        Err(CliError::Failed(format!("{} is {word}", context.client.server())))
    }
}
