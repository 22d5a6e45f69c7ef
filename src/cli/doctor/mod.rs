//! `sagad doctor`: what is wrong with a running daemon and the work on it, in plain words, and what to do.

mod checks;
mod facts;
mod finding;

use std::time::Duration;

use clap::{Args, builder::PossibleValuesParser};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{
    args,
    context::Context,
    errors::CliError,
    output::{Format, Output},
    text::counted,
};
use crate::client::StatusDetails;
use finding::{Finding, Severity};

/// How long the daemon is looked at: long enough to see whether changes are turned away just now.
const OVER: Duration = Duration::from_secs(1);

/// What `doctor` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sagad doctor\n  sagad doctor --check stale --check compensation-kinds\n  \
                        sagad doctor -o json | jq -r 'select(.severity == \"problem\") | .do'\n\n\
                        With -o json each finding is a line: check, severity (problem, warning, note), seen, why, do.\n\n\
                        Exit codes: 0 no problem was found (there may be warnings and notes), 1 a problem was\n\
                        found, 5 the server does not answer, or does not serve; others as with other commands.")]
pub struct DoctorArgs {
    /// Only this check; repeatable, or separated by commas [default: all]
    #[arg(long = "check", value_delimiter = ',', value_name = "NAME", value_parser = PossibleValuesParser::new(names()))]
    checks: Vec<String>,
    /// How long sagas must have been ready, stale, reserved or to be compensated before they count.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = args::duration)]
    patience: Duration,
}

fn names() -> Vec<&'static str> {
    checks::ALL.iter().map(|(name, _)| *name).collect()
}

/// Runs the checks, and prints what they found.
pub async fn run(context: &Context, args: DoctorArgs) -> Result<(), CliError> {
    if let Some(finding) = not_serving(context).await? {
        print_findings(&context.output, &[finding])?;
        return Err(CliError::Reported(super::errors::UNREACHABLE));
    }
    let facts = facts::collect(&context.client, args.patience, OVER).await?;
    let wanted = |name: &str| args.checks.is_empty() || args.checks.iter().any(|check| check == name);
    let checks: Vec<_> = checks::ALL.iter().filter(|(name, _)| wanted(name)).collect();
    let findings: Vec<Finding> = checks.iter().flat_map(|(_, check)| check(&facts)).collect();
    print_findings(&context.output, &findings)?;
    if context.output.format() == Format::Text {
        context.output.line(&summary(&findings, checks.len()))?;
    }
    let problem = findings.iter().any(|finding| finding.severity == Severity::Problem);
    if problem { Err(CliError::Reported(super::errors::FAILED)) } else { Ok(()) }
}

/// A finding if the daemon does not answer, or says that it does not serve.
async fn not_serving(context: &Context) -> Result<Option<Finding>, CliError> {
    let request = context.client.unary(HealthCheckRequest { service: String::new() });
    let (seen, mend) = match context.client.health().check(request).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => return Ok(None),
        Ok(answer) => (
            format!("the daemon at {} says {}", context.client.server(), answer.get_ref().status().as_str_name()),
            "it is opening its store or is about to end; its log says which (`journalctl -u sagad`)",
        ),
        Err(status) => {
            let refusal = StatusDetails::from(&status);
            if !refusal.unreachable {
                return Err(status.into());
            }
            (
                format!("no answer from {}: {}", context.client.server(), refusal.message),
                "start it with `sagad serve`, or choose another with --server or SAGAD_SERVER; if it runs, look at its \
                 log (`journalctl -u sagad`)",
            )
        }
    };
    Ok(Some(Finding {
        check: "serving",
        severity: Severity::Problem,
        seen,
        why: "Nobody can claim, heartbeat or finish. Leases that run out meanwhile are extended when it is back.",
        mend: mend.to_owned(),
    }))
}

/// Prints the findings: the worst first, and those of one severity in the order of the checks.
fn print_findings(output: &Output, findings: &[Finding]) -> Result<(), CliError> {
    let mut findings: Vec<&Finding> = findings.iter().collect();
    findings.sort_by_key(|finding| finding.severity);
    for finding in findings {
        match output.format() {
            Format::Json => output.line(&finding.json())?,
            Format::Text => output.line(&format!("{}\n", finding.text()))?,
        }
    }
    Ok(())
}

fn summary(findings: &[Finding], checks: usize) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as i64;
    let told = [Severity::Problem, Severity::Warning, Severity::Note].map(|severity| (count(severity), severity));
    let told: Vec<String> = told
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, severity)| counted(count, severity.name()))
        .collect();
    let checks = counted(checks as i64, "check");
    if told.is_empty() { format!("nothing is wrong: {checks}") } else { format!("{} in {checks}", told.join(", ")) }
}
