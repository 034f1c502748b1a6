//! A command in a terminal of its own, and what stands on that terminal.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rblfilter_lab::wait_for;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use vt100::{Color, Parser};

use super::LIMIT;

/// Whether pictures are to be made.
pub fn pictures() -> bool {
    std::env::var_os("RBLFILTER_IMAGES").is_some()
}

/// A command in a terminal.
pub struct Screen {
    child: Child,
    keyboard: File,
    terminal: OwnedFd,
    parser: Arc<Mutex<Parser>>,
    before: Termios,
}

impl Screen {
    /// Starts a command in a terminal of so many columns and rows, with these
    /// variables beside `LC_ALL=C.UTF-8` and `TERM=xterm-256color`.
    pub fn start(words: &[&str], (columns, rows): (u16, u16), variables: &[(&str, &str)]) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(&name, flags, Mode::empty()).unwrap();
        tcsetwinsize(&terminal, size(columns, rows)).unwrap();
        let before = tcgetattr(&terminal).unwrap();
        let standard = || Stdio::from(terminal.try_clone().unwrap());
        let child = Command::new("setsid")
            .arg("--ctty")
            .args(words)
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied())
            .stdin(standard())
            .stdout(standard())
            .stderr(standard())
            .spawn()
            .unwrap();
        let parser = Arc::new(Mutex::new(Parser::new(some(rows), some(columns), 0)));
        let mut output = File::from(master.try_clone().unwrap());
        let shown = Arc::clone(&parser);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Its end is an error.
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..length]);
            }
        });
        Self {
            child,
            keyboard: File::from(master),
            terminal,
            parser,
            before,
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Gives the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.parser
            .lock()
            .unwrap()
            .screen_mut()
            .set_size(some(rows), some(columns));
        tcsetwinsize(&self.terminal, size(columns, rows)).unwrap();
    }

    /// What stands on it.
    pub fn text(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    /// Waits until `part` stands on it; what stands there then.
    pub fn wait_for(&self, part: &str) -> String {
        self.wait_until(part, |text| text.contains(part))
    }

    /// Waits until what stands on it is as it should be.
    pub fn wait_until(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let seen = || Some(self.text()).filter(|text| is(text));
        wait_for(LIMIT * 2, seen).unwrap_or_else(|| panic!("no {what:?} in\n{}", self.text()))
    }

    /// Sends a signal to the command.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Waits until the command has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for(LIMIT, || child.try_wait().unwrap()).expect("the command ends")
    }

    /// The terminal is as the command found it.
    pub fn assert_restored(&self) {
        let now = tcgetattr(&self.terminal).unwrap();
        assert_eq!(now.local_modes, self.before.local_modes);
        assert_eq!(now.input_modes, self.before.input_modes);
        assert_eq!(now.output_modes, self.before.output_modes);
        let restored = || {
            let parser = self.parser.lock().unwrap();
            let screen = parser.screen();
            (!screen.alternate_screen() && !screen.hide_cursor()).then_some(())
        };
        wait_for(LIMIT, restored).expect("the screen and the cursor from before");
    }

    /// Whether anything on it has a colour.
    pub fn has_colours(&self) -> bool {
        let parser = self.parser.lock().unwrap();
        let screen = parser.screen();
        let (rows, columns) = screen.size();
        let (rows, columns) = (rows.get(), columns.get());
        (0..rows).any(|row| {
            (0..columns).any(|column| {
                screen.cell(row, column).is_some_and(|cell| {
                    cell.fgcolor() != Color::Default || cell.bgcolor() != Color::Default
                })
            })
        })
    }

    /// Writes it as a picture into docs/images, where `RBLFILTER_IMAGES` is set:
    /// `RBLFILTER_IMAGES=1 cargo test --test top --test status`.
    pub fn picture(&self, name: &str) {
        if !pictures() {
            return;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
        let svg = svg(self.parser.lock().unwrap().screen());
        std::fs::write(folder.join(name), svg).unwrap();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It has ended, most often.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn some(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Of a character, in the units of the picture.
const WIDTH: f64 = 8.0;
const HEIGHT: f64 = 17.0;
const EDGE: f64 = 12.0;
const PAPER: &str = "#fdfdfb";
const INK: &str = "#24292f";

/// How a cell is written.
#[derive(Clone, PartialEq)]
struct Style {
    ink: &'static str,
    paper: Option<&'static str>,
    bold: bool,
    dim: bool,
    underline: bool,
}

fn colour(colour: Color) -> &'static str {
    match colour {
        Color::Idx(1 | 9) => "#c0262d",
        Color::Idx(2 | 10) => "#1a7f37",
        Color::Idx(3 | 11) => "#9a6700",
        Color::Idx(4 | 12) => "#0969da",
        Color::Idx(5 | 13) => "#8250df",
        Color::Idx(6 | 14) => "#1b7c83",
        _ => INK,
    }
}

/// A screen as a picture: light, and each character in its place whatever the
/// font.
fn svg(screen: &vt100::Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    // Empty rows at the end are left out.
    let is_used = |row: &u16| {
        (0..columns).any(|column| {
            screen
                .cell(*row, column)
                .is_some_and(|cell| cell.has_contents() && cell.contents() != " " || cell.inverse())
        })
    };
    let rows = (0..rows).rev().find(is_used).map_or(1, |last| last + 1);
    let (width, height) = (
        f64::from(columns) * WIDTH + 2.0 * EDGE,
        f64::from(rows) * HEIGHT + 2.0 * EDGE,
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"13\" fill=\"{INK}\">\n<rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"{PAPER}\" stroke=\"#d0d7de\"/>\n"
    );
    for row in 0..rows {
        let mut column = 0;
        while column < columns {
            let style = style_at(screen, row, column);
            let from = column;
            let mut text = String::new();
            while column < columns && style_at(screen, row, column) == style {
                let contents = screen.cell(row, column).map_or("", |cell| cell.contents());
                text.push_str(if contents.is_empty() { " " } else { contents });
                column += 1;
            }
            run(&mut svg, row, from, &text, &style);
        }
    }
    svg + "</svg>\n"
}

fn style_at(screen: &vt100::Screen, row: u16, column: u16) -> Style {
    let cell = screen.cell(row, column).unwrap();
    let ink = colour(cell.fgcolor());
    Style {
        ink: if cell.inverse() { PAPER } else { ink },
        paper: cell.inverse().then_some(ink),
        bold: cell.bold(),
        dim: cell.dim(),
        underline: cell.underline(),
    }
}

/// Writes characters of one style in a row.
fn run(svg: &mut String, row: u16, from: u16, text: &str, style: &Style) {
    let x = |column: usize| EDGE + (f64::from(from) + column as f64) * WIDTH;
    let top = EDGE + f64::from(row) * HEIGHT;
    let length = text.chars().count();
    let rect = |svg: &mut String, x: f64, y: f64, width: f64, height: f64, fill: &str| {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y:.2}\" width=\"{width}\" height=\"{height:.2}\" fill=\"{fill}\" shape-rendering=\"crispEdges\"/>"
        );
    };
    if let Some(paper) = style.paper {
        rect(svg, x(0), top, length as f64 * WIDTH, HEIGHT, paper);
    }
    if style.underline {
        rect(
            svg,
            x(0),
            top + HEIGHT - 1.0,
            length as f64 * WIDTH,
            0.7,
            style.ink,
        );
    }
    let mut words = String::new();
    for (column, character) in text.chars().enumerate() {
        let eighths = match character {
            '▁'..='█' => u32::from(character) - u32::from('▁') + 1,
            '─' => {
                rect(svg, x(column), top + HEIGHT / 2.0, WIDTH, 1.0, style.ink);
                words.push(' ');
                continue;
            }
            _ => {
                words.push(character);
                continue;
            }
        };
        let height = HEIGHT * f64::from(eighths) / 8.0;
        rect(
            svg,
            x(column),
            top + HEIGHT - height,
            WIDTH,
            height,
            style.ink,
        );
        words.push(' ');
    }
    // Each word by itself, at its place.
    let mut column = 0;
    for word in words.split(' ') {
        let length = word.chars().count();
        if length > 0 {
            let escaped = word.replace('&', "&amp;").replace('<', "&lt;");
            let bold = if style.bold {
                " font-weight=\"bold\""
            } else {
                ""
            };
            let dim = if style.dim { " opacity=\"0.65\"" } else { "" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.2}\" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{}\"{bold}{dim}>{escaped}</text>",
                x(column),
                top + HEIGHT * 0.76,
                length as f64 * WIDTH,
                style.ink
            );
        }
        column += length + 1;
    }
}
