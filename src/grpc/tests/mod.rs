//! The error table, the rendering, and the services as a client sees them.

mod errors;
mod rendering;
mod services;
mod sizes;
