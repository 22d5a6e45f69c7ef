//! The configuration file with every setting commented out: its default, and why it is that.

use super::settings::GROUPS;

/// The longest line of a comment, in characters.
const LINE: usize = 120;

const HEAD: &str = "\
# The configuration of `sagad serve`: every key, with its default and its reason. `sagad config defaults` prints this
# file. To change a setting, remove the `#` before its key. To use the file: `sagad serve --config FILE`, or
# SAGAD_CONFIG=FILE.
#
# Each key is a flag, too (--restart-grace), and a variable (SAGAD_RESTART_GRACE). The flag wins over the variable, the
# variable over the file, the file over the default. An unknown key is an error. The file is read once, at the start.
# `sagad config check` says whether a configuration is valid, `sagad config show` what is in effect and who said it.
#
# Lengths of time read 500ms, 30s, 5m, 1h30m. Sizes are bytes, or read 512KiB, 64MiB, 1GiB.
";

/// The text of the file: TOML that sets nothing.
pub fn defaults_file() -> String {
    let mut file = HEAD.to_owned();
    for group in GROUPS {
        file.push_str(&format!("\n# --- {} ---\n", group.title));
        for setting in group.settings {
            file.push('\n');
            comment(&setting.about_with_range(), &mut file);
            file.push_str(&format!("#{} = {}\n", setting.key, setting.default_in_file()));
        }
    }
    file
}

/// Writes a paragraph as a comment.
fn comment(text: &str, file: &mut String) {
    let mut line = String::from("#");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > LINE {
            file.push_str(&line);
            file.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    file.push_str(&line);
    file.push('\n');
}
