//! The generated pages of `docs/reference/`: the contract from its descriptors, the commands from their help, the settings from
//! their declarations. `SAGAD_WRITE_DOCS=1` writes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
    fs,
};

use clap::{Command, CommandFactory};
use prost::Message;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use sagad::{cli::Cli, config::settings::GROUPS};
use tonic::Code;

use super::root;

type Generator = fn() -> String;

/// The generated pages with their generators.
pub const GENERATED: [(&str, Generator); 3] = [
    ("docs/reference/cli.md", commands),
    ("docs/reference/contract.md", contract),
    ("docs/reference/settings.md", settings),
];

#[test]
fn generated_reference_pages_are_up_to_date() {
    let accept = env::var_os("SAGAD_WRITE_DOCS").is_some();
    let mut differ = Vec::new();
    for (path, make) in GENERATED {
        let text = make();
        if fs::read_to_string(root().join(path)).is_ok_and(|page| page == text) {
            continue;
        }
        if accept {
            fs::write(root().join(path), text).unwrap();
        } else {
            differ.push(path);
        }
    }
    assert!(differ.is_empty(), "not what the program says, until SAGAD_WRITE_DOCS=1 makes it so: {differ:?}");
}

/// `docs/reference/errors.md` has exactly the reasons of the contract, with their codes.
#[test]
fn the_errors_page_has_every_reason() {
    let mut expected = BTreeSet::new();
    for file in ["saga_service.proto", "admin_service.proto"] {
        let text = fs::read_to_string(root().join("proto/sagad/v1").join(file)).unwrap();
        // In comments, whose lines are joined, a code is followed by its reasons: "`CODE`: `REASON`, `REASON` (…), or `REASON`".
        let text = text.lines().map(|line| line.trim().trim_start_matches("//").trim()).collect::<Vec<_>>().join(" ");
        for (code, rest) in text.split("`: `").zip(text.split("`: `").skip(1)) {
            let Some(code) = code.rsplit('`').next().filter(|code| is_word(code)) else { continue };
            let mut pieces = rest.split('`');
            expected.extend(pieces.next().map(|reason| (code.to_owned(), reason.to_owned())));
            while let (Some(between), Some(reason)) = (pieces.next(), pieces.next()) {
                if !(between == ", " || between.ends_with(" or ")) || !is_word(reason) {
                    break;
                }
                expected.insert((code.to_owned(), reason.to_owned()));
            }
        }
    }
    expected.retain(|(code, reason)| is_code(code) && !is_code(reason) && reason != "REASON");
    let page = fs::read_to_string(root().join("docs/reference/errors.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split(" | ").collect();
        let name = |cell: &str| cell.trim_start_matches("| ").trim_matches('`').to_owned();
        (cells.len() >= 3 && cells[0].starts_with("| `")).then(|| (name(cells[0]), name(cells[1])))
    });
    // The contract writes a name once that is both code and reason.
    let told: BTreeSet<_> = rows.filter(|(code, reason)| is_code(code) && code != reason).collect();
    assert_eq!(told, expected);
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

/// True for the name of a gRPC code.
fn is_code(text: &str) -> bool {
    (1..=16).any(|number| format!("{:?}", Code::from(number)).to_uppercase() == text.replace('_', ""))
}

// ------------------------------------------------------------------------------------------------------------- commands

fn commands() -> String {
    let mut page = "# Commands\n\n\
        Generated from `sagad --help`. The exit codes are in [Errors](errors.md#which-exit-code-does-the-command-have).\n\n\
        ## Global options\n\nEvery command but `serve` takes these:\n\n"
        .to_owned();
    let root = Cli::command();
    let global = root.get_arguments().filter(|argument| argument.is_global_set());
    let options = global.fold(Command::new("sagad").disable_help_flag(true), |all, argument| all.arg(argument.clone()));
    let help = tidy(options).render_long_help().to_string();
    fenced(
        &mut page,
        help.split_once("options:\n").or(help.split_once("Options:\n")).map_or(help.as_str(), |(_, options)| options),
    );
    for sub in root.get_subcommands() {
        command(&mut page, "sagad", sub);
    }
    page
}

fn command(page: &mut String, parent: &str, command: &Command) {
    let name = format!("{parent} {}", command.get_name());
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    write!(page, "\n## {name}\n\n").unwrap();
    let help = tidy(command.clone()).bin_name(&name).render_long_help().to_string();
    fenced(page, &help);
    for sub in command.get_subcommands() {
        self::command(page, &name, sub);
    }
}

/// A command whose help has a fixed width and no values of this process's environment.
fn tidy(command: Command) -> Command {
    command.term_width(100).mut_args(|argument| argument.hide_env_values(true))
}

fn fenced(page: &mut String, text: &str) {
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    writeln!(page, "```text\n{}\n```", lines.join("\n")).unwrap();
}

// ------------------------------------------------------------------------------------------------------------- settings

fn settings() -> String {
    let mut page = "# Settings\n\n\
        Generated from `src/config/settings.rs`. Each setting of `sagad serve` is a key of the TOML file (`--config FILE`), a variable and a\n\
        flag. The flag wins over the variable, the variable over the file, the file over the default. `sagad config check` says whether a\n\
        configuration is valid, and `sagad config show` each value and where it comes from.\n"
        .to_owned();
    for group in GROUPS {
        write!(page, "\n## {}\n", group.title.split(" (see docs/").next().unwrap()).unwrap();
        for one in group.settings {
            let (default, about) = (one.default_in_file(), one.about_with_range());
            write!(
                page,
                "\n### `{}`\n\nDefault `{default}`; `{}`, `{}`.\n\n{about}\n",
                one.key,
                one.flag(),
                one.variable()
            )
            .unwrap();
        }
    }
    page
}

// ------------------------------------------------------------------------------------------------------------- contract

/// The comments of a file, by the path of their element.
type Comments = BTreeMap<Vec<i32>, String>;

fn contract() -> String {
    let set = FileDescriptorSet::decode(sagad::proto::DESCRIPTORS).unwrap();
    let ours = set.file.iter().filter(|file| file.package() == "sagad.v1");
    let files: Vec<(&FileDescriptorProto, Comments)> = ours.map(|file| (file, comments(file))).collect();
    let mut page = "# The contract\n\n\
        Generated from `proto/sagad/v1/`. A daemon describes itself, too: `grpcurl HOST:PORT describe`.\n"
        .to_owned();
    for (file, comments) in &files {
        if let Some(text) = comments.get(&vec![12]) {
            let name = file.name().rsplit('/').next().unwrap();
            write!(page, "\n## Conventions of {name}\n\n{}\n", escaped(text)).unwrap();
        }
    }
    for (file, comments) in &files {
        for (place, service) in (0..).zip(&file.service) {
            let text = comments.get(&vec![6, place]).map(String::as_str).unwrap_or_default();
            write!(page, "\n## {}\n\n{}\n", service.name(), escaped(text)).unwrap();
            for (number, method) in (0..).zip(&service.method) {
                let side =
                    |streams: bool, name: &str| format!("{}{}", if streams { "stream of " } else { "" }, linked(name));
                let request = side(method.client_streaming(), method.input_type());
                let response = side(method.server_streaming(), method.output_type());
                let text = comments.get(&vec![6, place, 2, number]).map(String::as_str).unwrap_or_default();
                write!(page, "\n### {}\n\n{request} → {response}\n\n{}\n", method.name(), escaped(text)).unwrap();
            }
        }
    }
    page += "\n## Messages\n";
    for (file, comments) in &files {
        for (place, message) in (0..).zip(&file.message_type) {
            self::message(&mut page, message, &[4, place], comments);
        }
    }
    page += "\n## Enums\n";
    for (file, comments) in &files {
        for (place, choice) in (0..).zip(&file.enum_type) {
            let text = comments.get(&vec![5, place]).map(String::as_str).unwrap_or_default();
            write!(page, "\n### {}\n\n{}\n\n| value | number | |\n|---|---|---|\n", choice.name(), escaped(text))
                .unwrap();
            for (number, value) in (0..).zip(&choice.value) {
                let text = comments.get(&vec![5, place, 2, number]).map(String::as_str).unwrap_or_default();
                writeln!(page, "| `{}` | {} | {} |", value.name(), value.number(), cell(text)).unwrap();
            }
        }
    }
    page
}

fn comments(file: &FileDescriptorProto) -> Comments {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let told = locations.filter(|location| location.leading_comments.is_some());
    told.map(|location| (location.path.clone(), plain(location.leading_comments()))).collect()
}

/// A comment without the leading space of its lines.
fn plain(comment: &str) -> String {
    let lines = comment.trim_end().lines().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.collect::<Vec<_>>().join("\n")
}

/// Escapes `<` outside of code, so that it begins no tag.
fn escaped(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    let pieces = pieces.map(|(place, piece)| if place % 2 == 0 { piece.replace('<', "\\<") } else { piece.to_owned() });
    pieces.collect::<Vec<_>>().join("`")
}

fn cell(text: &str) -> String {
    escaped(text).replace('\n', " ").replace('|', "\\|")
}

fn message(page: &mut String, message: &DescriptorProto, path: &[i32], comments: &Comments) {
    let text = comments.get(path).map(String::as_str).unwrap_or_default();
    write!(page, "\n### {}\n\n{}\n", message.name(), escaped(text)).unwrap();
    if message.field.is_empty() {
        return;
    }
    *page += "\n| field | type | number | |\n|---|---|---|---|\n";
    for (number, field) in (0..).zip(&message.field) {
        let place: Vec<i32> = path.iter().copied().chain([2, number]).collect();
        let text = comments.get(&place).map(String::as_str).unwrap_or_default();
        let kind = kind(message, field);
        writeln!(page, "| `{}` | {kind} | {} | {} |", field.name(), field.number(), cell(text)).unwrap();
    }
}

/// A field's type as the `.proto` file has it.
fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = match field.r#type() {
        Type::Message | Type::Enum => {
            let last = field.type_name().rsplit('.').next().unwrap();
            // A map is a repeated message of the message's own.
            let entry = message.nested_type.iter().find(|nested| nested.name() == last);
            if let Some([key, value]) = entry.map(|entry| entry.field.as_slice()) {
                return format!("map of {} to {}", kind(message, key), kind(message, value));
            }
            linked(field.type_name())
        }
        scalar => format!("`{}`", scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase()),
    };
    match (field.label(), field.proto3_optional(), field.oneof_index) {
        (Label::Repeated, _, _) => format!("repeated {name}"),
        (_, true, _) => format!("optional {name}"),
        (_, false, Some(index)) => {
            let oneof = message.oneof_decl.get(usize::try_from(index).unwrap()).map_or("", |oneof| oneof.name());
            format!("{name}, one of `{oneof}`")
        }
        (_, false, None) => name,
    }
}

/// A type's name: ours with a link.
fn linked(full: &str) -> String {
    match full.strip_prefix(".sagad.v1.") {
        Some(name) => format!("[{name}](#{})", name.to_lowercase()),
        None => format!("`{}`", full.trim_start_matches('.')),
    }
}
