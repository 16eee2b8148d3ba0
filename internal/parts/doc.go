// Package parts starts real servers for tests, from the packages that the
// operating system installs: PostgreSQL, MariaDB, Prometheus, HAProxy and nginx. It owns the servers that it
// started: each has a directory and a free loopback port of its own, and ends
// with the test that started it, also when that test fails.
//
// It promises that nothing of the host is touched: no system cluster, no
// default port, no configuration outside of its own directory. Real servers
// run only where BACKSTAY_REAL=1 is set; a test that needs one is skipped with
// a clear word otherwise, and fails where it is set and the server is missing.
//
// It is for tests only.
package parts
