package approve

import (
	"github.com/backstay-dev/backstay"
	"github.com/backstay-dev/backstay/internal/driver"
)

var _ driver.Explainer = (*Driver)(nil)

// Explain gives the commands with which people agree or do not.
func (*Driver) Explain(step backstay.Step) (backstay.Explanation, error) {
	return backstay.Explanation{
		Do: []backstay.Command{
			{Note: step.Summary, Line: `backstay approve "$DEPLOYMENT"`},
			{Note: "to say no", Line: `backstay rollback "$DEPLOYMENT" --reason "why"`},
		},
		Read: []backstay.Command{{Note: "who agreed, and until when it waits", Line: `backstay status "$DEPLOYMENT"`}},
	}, nil
}
