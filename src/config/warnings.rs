//! Warnings about settings that are valid but probably not intended, for `sagad config check`.

use super::{Config, Explained, Setting, args::KEYS};
use crate::domain::bounds::ANSWER_KEPT;

/// Most wrong letters in the name of a variable that is still taken for a typing error, for keys long enough to differ
/// from other words.
const SLIPS: usize = 2;
/// For keys shorter than this, one wrong letter at most is taken for a typing error.
const SHORT: usize = 6;

impl Explained {
    /// All warnings. `variables` are the names of all variables that are set, sagad's and others.
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

    /// A limit set above `max_calls`: the calls it limits count for both.
    fn beyond(&self, key: &str) -> Option<String> {
        let limits = &self.config.limits;
        let value = match key {
            "max_concurrent_streams" => limits.max_concurrent_streams as usize,
            "max_watches" => limits.max_watches,
            _ => limits.max_waiting,
        };
        let origin = self.setting(key)?.origin.as_ref()?;
        let most = limits.max_calls;
        (value > most).then(|| format!("{origin}: {value} is never reached, because max_calls is {most}"))
    }

    /// A retention age shorter than the time for which answers that name the saga are kept.
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

    fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }
}

impl Config {
    /// Tokens that are sent without TLS.
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

/// A variable whose name is close to that of a setting. Unlike unknown keys of the file, unknown variables can't be
/// refused: workers and service managers have variables of their own.
fn misspelt(name: &str) -> Option<String> {
    let key = name.to_lowercase().strip_prefix("sagad_")?.to_owned();
    let known = |wanted: &str| name == format!("SAGAD_{}", wanted.to_uppercase());
    let mut keys = KEYS.iter().copied().chain(["config"]);
    if keys.clone().any(known) {
        return None;
    }
    let near = |wanted: &&str| {
        let slips = if wanted.len() < SHORT { 1 } else { SLIPS };
        strsim::osa_distance(&key, wanted) <= slips
    };
    let meant = keys.find(near)?.to_uppercase();
    Some(format!("the variable {} means nothing to sagad; is SAGAD_{meant} meant?", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_noticed_and_other_words_are_not() {
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
        // Variables of the client, of workers and of the tests, and those that Kubernetes sets for a service named
        // sagad.
        let others = "SERVER TOKEN OWNER ACTOR TASK_ID SAGA_ID QUEUE ATTEMPT ISSUE BRANCH WORKTREE PAYLOAD_FILE KIND \
                      TARGET REASON POSITION MUTANT SEEDS CI_TOOLS PORT SERVICE_HOST SERVICE_PORT PORT_7420_TCP";
        let others = others.split_whitespace().map(|name| format!("SAGAD_{name}"));
        let ours = KEYS.iter().map(|key| format!("SAGAD_{}", key.to_uppercase()));
        for name in others.chain(ours).chain(["SAGAD_CONFIG", "PATH", "SAGAD_", "LISTEN"].map(str::to_owned)) {
            assert_eq!(misspelt(&name), None);
        }
    }
}
