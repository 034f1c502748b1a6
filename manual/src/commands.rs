//! rblfilter(8): manual/text/rblfilter.8.md, with what clap's definition of the
//! commands says of each, which is what `--help` shows.

use clap::{Arg, Command};
use roff::{Inline, Roff, bold, italic, roman};

use crate::markup::{self, Block};
use crate::{Result, page};

const TEXT: &str = include_str!("../text/rblfilter.8.md");

/// The page.
///
/// # Errors
/// Where the text asks for something that is not made here.
pub fn page(command: &Command) -> Result<String> {
    let mut command = command.clone();
    // Only a command that is built tells how many values an argument takes.
    command.build();
    let (title, blocks) = markup::parse(TEXT)?;
    let mut page = Roff::new();
    page::title(&mut page, &title);
    for block in &blocks {
        match block {
            Block::Made(what) => match &**what {
                "synopsis" => {
                    let mut lines = Vec::new();
                    synopsis(&mut lines, &command, &mut Vec::new());
                    for (number, line) in lines.into_iter().enumerate() {
                        if number > 0 {
                            page.control("br", []);
                        }
                        page.text(line);
                    }
                }
                "options" => options(&mut page, &command, true),
                "commands" => each(&mut page, &command, &mut Vec::new()),
                what => return Err(format!("@{what}@: nothing is made of that name").into()),
            },
            block => page::block(&mut page, block),
        }
    }
    Ok(page::render(&page))
}

/// Those that are ours, and not clap's own `help`.
fn below(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

/// The arguments of a command by itself; with `global`, those of every command.
fn arguments(command: &Command, global: bool) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(move |argument| {
        let is_global =
            argument.is_global_set() || ["help", "version"].contains(&argument.get_id().as_str());
        is_global == global && !argument.is_hide_set()
    })
}

/// A line for each command that does something by itself.
fn synopsis(lines: &mut Vec<Vec<Inline>>, command: &Command, names: &mut Vec<String>) {
    names.push(command.get_name().to_owned());
    if below(command).next().is_none() {
        lines.push(usage(command, names));
    }
    for command in below(command) {
        synopsis(lines, command, names);
    }
    names.pop();
}

fn usage(command: &Command, names: &[String]) -> Vec<Inline> {
    let mut line = vec![bold(names.join(" "))];
    let (positional, options): (Vec<_>, Vec<_>) =
        arguments(command, false).partition(|argument| argument.is_positional());
    for argument in options.into_iter().chain(positional) {
        let (before, after) = if argument.is_required_set() {
            (" ", "")
        } else {
            (" [", "]")
        };
        line.push(roman(before));
        line.extend(term(argument, false));
        line.push(roman(after));
    }
    line
}

/// An argument as it is written: `-f`, `--file` and its value.
fn term(argument: &Arg, both: bool) -> Vec<Inline> {
    let mut term = Vec::new();
    if let Some(short) = argument.get_short()
        && (both || argument.get_long().is_none())
    {
        term.push(bold(format!("-{short}")));
    }
    if let Some(long) = argument.get_long() {
        if !term.is_empty() {
            term.push(roman(", "));
        }
        term.push(bold(format!("--{long}")));
    }
    let Some(range) = argument.get_num_args().filter(|range| range.takes_values()) else {
        return term;
    };
    let names = argument.get_value_names().unwrap_or_default();
    let value = italic(names.join(" "));
    match (argument.is_positional(), range.min_values() == 0) {
        (true, _) => term.push(value),
        (false, true) => term.extend([roman("[="), value, roman("]")]),
        (false, false) => term.extend([roman(" "), value]),
    }
    if range.max_values() > names.len() {
        term.push(roman("..."));
    }
    term
}

fn each(page: &mut Roff, command: &Command, names: &mut Vec<String>) {
    names.push(command.get_name().to_owned());
    for command in below(command) {
        let name = [&names[1..], &[command.get_name().to_owned()]]
            .concat()
            .join(" ");
        page.control("SS", [&*name]);
        if below(command).next().is_none() {
            let names: Vec<_> = names.iter().cloned().chain([name_of(command)]).collect();
            page.text(usage(command, &names));
        }
        let about = command.get_long_about().or(command.get_about());
        for paragraph in paragraphs(about.map(ToString::to_string)) {
            page::block(page, &Block::Paragraph(paragraph));
        }
        options(page, command, false);
        for paragraph in paragraphs(command.get_after_long_help().map(ToString::to_string)) {
            page::block(page, &Block::Paragraph(paragraph));
        }
        each(page, command, names);
    }
    names.pop();
}

fn name_of(command: &Command) -> String {
    command.get_name().to_owned()
}

fn options(page: &mut Roff, command: &Command, global: bool) {
    for argument in arguments(command, global) {
        let help = argument.get_long_help().or(argument.get_help());
        let mut text = paragraphs(help.map(ToString::to_string));
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .filter(|value| !value.is_empty() && !argument.is_hide_default_value_set())
            .collect();
        let takes = argument
            .get_num_args()
            .is_some_and(|range| range.takes_values());
        if takes && !defaults.is_empty() {
            text.push(format!("Default: {}.", defaults.join(", ")));
        }
        page::item(page, term(argument, true), &text);
        let values = argument.get_possible_values();
        if takes && !argument.is_hide_possible_values_set() && !values.is_empty() {
            page.control("RS", []);
            for value in values.iter().filter(|value| !value.is_hide_set()) {
                let help = value
                    .get_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                page::item(page, vec![bold(value.get_name())], [&help]);
            }
            page.control("RE", []);
        }
    }
}

/// The paragraphs of a help text; a sentence ends with a full stop, which clap
/// takes from short ones.
fn paragraphs(help: Option<String>) -> Vec<String> {
    help.unwrap_or_default()
        .split("\n\n")
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|text| !text.is_empty())
        .map(|text| {
            if text.ends_with(['.', ':', ']']) {
                text
            } else {
                text + "."
            }
        })
        .collect()
}
