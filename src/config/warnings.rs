//! What is valid and yet hardly meant, for whoever asks before the daemon starts.

use super::{Config, Explained, Value, setting::variable, settings};
use crate::domain::bounds::ANSWER_KEPT;

/// Letters that may be wrong in a variable's name, where the key is long enough to be told from other words.
const SLIPS: usize = 2;
/// Keys of fewer letters are no further than one slip from what is meant for them.
const SHORT: usize = 6;

impl Explained {
    /// What should be looked at. `variables` are the names of those that are set, sagad's and all others.
    pub fn warnings(&self, variables: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut warnings: Vec<String> = self
            .needless_insecure()
            .into_iter()
            .chain(self.config.tokens_in_the_open())
            .chain(self.exposed_ops())
            .collect();
        warnings
            .extend(["max_concurrent_streams", "max_watches", "max_waiting"].iter().filter_map(|key| self.beyond(key)));
        warnings.extend(self.short_retention());
        warnings.extend(variables.into_iter().filter_map(|name| misspelt(&name)));
        warnings
    }

    fn needless_insecure(&self) -> Option<String> {
        let listen = &self.config.listen;
        if !self.config.insecure {
            None
        } else if !self.config.is_exposed() {
            Some(format!(
                "insecure has no effect while listen is {listen}, which only this machine reaches. Leave it out, so that \
                 another address is not opened to everyone by mistake"
            ))
        } else if self.config.security.missing().is_none() {
            let why = "insecure has no effect beside TLS and principals. Leave it out, so that the port is not opened to \
                       everyone should one of them be taken away by mistake";
            Some(why.to_owned())
        } else {
            None
        }
    }

    fn exposed_ops(&self) -> Option<String> {
        let ops = self.config.ops_listen?;
        (!ops.ip().to_canonical().is_loopback()).then(|| {
            format!(
                "ops_listen is {ops}, beyond this machine, and has no authentication: whoever reaches it reads the names of \
                 queues, counts and times. Let nothing but a private network reach it"
            )
        })
    }

    /// A bound that somebody set above the one on all calls, which count in both.
    fn beyond(&self, key: &str) -> Option<String> {
        let one = self.settings.find(key)?;
        let (origin, Value::Count(value)) = (one.origin.as_ref()?, &one.value) else { return None };
        let most = self.config.limits.max_calls;
        (*value > most as u64).then(|| format!("{origin}: {value} is never reached, because max_calls is {most}"))
    }

    /// An age at which sagas go while answers that name them are kept still.
    fn short_retention(&self) -> Option<String> {
        let (state, age) = self.config.retention.ages().into_iter().min_by_key(|(_, age)| *age)?;
        (age < ANSWER_KEPT).then(|| {
            let state = state.name().to_lowercase();
            format!(
                "retain_{state} is {age}: within an hour a request may be repeated by its request_id, and whoever does so \
                 will not find the saga"
            )
        })
    }
}

impl Config {
    /// Tokens that travel where others can read them.
    pub fn tokens_in_the_open(&self) -> Option<String> {
        let open = self.is_exposed() && self.security.tls.is_none() && self.security.principals.is_some();
        open.then(|| {
            format!(
                "without TLS on {}, every token is sent in plain text: whoever reads one on the way can use it",
                self.listen
            )
        })
    }
}

/// A variable that is nearly one of the daemon's. Unlike the keys of the file, variables can't be refused for being
/// unknown: workers have some of their own, and so have service managers.
fn misspelt(name: &str) -> Option<String> {
    let key = name.to_lowercase().strip_prefix("sagad_")?.to_owned();
    let known = |wanted: &str| name == variable(wanted);
    let mut keys = settings::all().map(|setting| setting.key).chain(["config"]);
    if keys.clone().any(known) {
        return None;
    }
    let near = |wanted: &&str| {
        let slips = if wanted.len() < SHORT { 1 } else { SLIPS };
        strsim::osa_distance(&key, wanted) <= slips
    };
    let meant = variable(keys.find(near)?);
    Some(format!("the variable {} means nothing to sagad; is {meant} meant?", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_variables_are_noticed_and_others_are_not() {
        for (name, meant) in [
            ("SAGAD_RESTART_GRCE", "SAGAD_RESTART_GRACE"),
            ("SAGAD_RESTRT_GRCE", "SAGAD_RESTART_GRACE"),
            ("SAGAD_RESTARTGRACE", "SAGAD_RESTART_GRACE"),
            ("SAGAD_MAX_CALL", "SAGAD_MAX_CALLS"),
            ("SAGAD_LISTNE", "SAGAD_LISTEN"),
            ("SAGAD_CONFG", "SAGAD_CONFIG"),
            ("SAGAD_DATE", "SAGAD_DATA"),
            ("sagad_log", "SAGAD_LOG"),
        ] {
            assert!(misspelt(name).is_some_and(|text| text.contains(name) && text.contains(meant)), "{name}");
        }
        // The clients', the workers', the tests', and what Kubernetes sets for a service of that name.
        let others = "SERVER TOKEN OWNER ACTOR TASK_ID SAGA_ID QUEUE ATTEMPT ISSUE BRANCH WORKTREE PAYLOAD_FILE KIND \
                      TARGET REASON POSITION MUTANT SEEDS CI_TOOLS PORT SERVICE_HOST SERVICE_PORT PORT_7420_TCP";
        let others = others.split_whitespace().map(|name| format!("SAGAD_{name}"));
        let ours = settings::all().map(super::super::Setting::variable);
        for name in others.chain(ours).chain(["SAGAD_CONFIG", "PATH", "SAGAD_", "LISTEN"].map(str::to_owned)) {
            assert_eq!(misspelt(&name), None);
        }
    }
}
