//! `sagad top` in a real terminal, `sagad doctor`, and `GetVitals`, each with the real daemon.

mod doctor;
mod once;
mod tmux;
mod top;
mod vitals;
