// Package release holds the tests of whole releases: real processes of a shop
// behind a real proxy process, users that ask all the time and count every
// failure, and deployments in processes of their own, good and bad by turns, some
// of them ended by SIGKILL. What a user noticed is judged by the users alone.
//
//	go test ./internal/sim/release                  a few of each
//	go test ./internal/sim/release -release.full    as CI runs it: 100 deployments and 100 rollbacks behind a router (nginx: 25)
//	go test ./internal/sim/release -release.full -release.stride 1    a kill at every point
package release
