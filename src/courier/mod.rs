//! All that is Courier's: where it is installed, how it starts a filter and
//! speaks to it, what its control files and its sessions' processes tell.

pub mod aliases;
pub mod control_file;
pub mod domains;
pub mod esmtpd;
pub mod filter_socket;
pub mod identified;
pub mod listener;
pub mod log_line;
pub mod paths;
pub mod process;
pub mod request;
pub mod session;
pub mod settings;
pub mod smtpaccess;
pub mod tcpd;
pub mod turn;
