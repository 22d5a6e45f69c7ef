//! Settings of tests from the environment.

use std::{env, str::FromStr};

/// A number from an environment variable, if it is set.
pub fn number<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}
