//! What is seen of calls from outside: how many, of which rpc, with which end, and after how long. It lies in front of all
//! other layers, so that it sees those that they refuse, too; and it looks at the trailers, where the end of a call that
//! was answered stands.
//!
//! With neither metrics nor log lines for it, a call passes through it untouched.

mod body;
mod call;
mod layer;
mod meters;

pub(super) use call::Call as ObservedCall;
pub(super) use layer::ObserveLayer;
pub(super) use meters::Meters;
