//! Certificates, which openssl makes.

use std::path::Path;
use std::process::Command;

const SCRIPT: &str = "
set -e
for ca in ca other; do
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=$ca -keyout $ca.key -out $ca.pem
done
openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n' > ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext \\
    -out server.pem
";

/// Makes `server.pem` and `server.key` in `folder`, for the name localhost; `ca.pem`, the authority
/// that vouches for it; and `other.pem`, one that does not.
///
/// # Panics
/// They cannot be made.
pub fn make(folder: &Path) {
    let shell = Command::new("sh").args(["-c", SCRIPT]).current_dir(folder).output();
    let made = shell.expect("a shell");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
