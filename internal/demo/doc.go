// Package demo is what `backstay demo` deploys and who uses it: a small shop
// whose versions can be bad on purpose, and users who ask all the time and count.
//
// It promises that what the users count is told apart: what a version answered
// wrong itself, and requests that got no whole answer of any version (a fault of
// how traffic was moved).
package demo
