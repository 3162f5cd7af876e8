//! The `pelton` command.

fn main() {
    pelton::runtime::launch::intercept();
}
