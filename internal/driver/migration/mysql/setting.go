package mysql

import (
	"slices"
	"strings"

	"github.com/pingcap/tidb/pkg/parser/ast"

	"github.com/backstay-dev/backstay/internal/driver/migration/sqltext"
)

// set judges SET: what is the session's own is repeated when a script is taken
// up again; what would loosen Backstay's hold on it is refused.
func (j *judge) set(n *ast.SetStmt) {
	j.st.Mode = sqltext.Session
	for _, v := range n.Variables {
		variable := strings.ToLower(v.Name)
		switch {
		case v.IsGlobal:
			j.refuse("setting", "SET GLOBAL changes the server, which nothing here puts back", "set it outside of migrations")
		case v.IsSystem && slices.Contains([]string{"autocommit", "lock_wait_timeout", "innodb_lock_wait_timeout", "max_statement_time", "sql_log_bin", "read_only", "transaction_read_only", "tx_read_only"}, variable):
			j.refuse("setting", "SET "+variable+" would take the session out of Backstay's hands", "use lock-timeout: and statement-timeout: of the step")
		}
	}
}
