//! The documents: their blocks do what they show.

mod run;
