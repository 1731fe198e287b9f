// Package browser tries the dashboard in a real browser: Debian's chromium, and axe-core for what
// people with a screen reader or a keyboard meet.
//
// Tests need chromium (apt-get install chromium) and npm, once, for axe-core; without them they are
// skipped, and CQRSYNC_TEST_REQUIRE=browser turns that into a failure. -args -screenshots FOLDER
// says where screenshots go.
package browser
