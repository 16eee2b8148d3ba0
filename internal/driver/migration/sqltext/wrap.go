package sqltext

// Unwrap takes BEGIN and COMMIT from around statements: a script that says so
// itself gets the transaction that it would have had anyway. isBegin and isCommit
// tell them; the rest stays.
func Unwrap[T any](all []T, isBegin, isCommit func(T) bool) []T {
	if len(all) < 2 || !isBegin(all[0]) || !isCommit(all[len(all)-1]) {
		return all
	}
	return all[1 : len(all)-1]
}
