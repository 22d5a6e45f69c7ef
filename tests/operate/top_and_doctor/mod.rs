//! `sagad top` in a real terminal, `sagad doctor`, and `GetVitals`, with the real daemon.

mod doctor;
mod tmux;
mod top;
mod top_once;
mod vitals;
