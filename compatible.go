package backstay

// SchemaKind is the kind of keys whose schema releases use: databases.
const SchemaKind = "database"

// Schema says of a step that its key has another schema after it, or the one that
// this release knows. For is, by release, the range of its versions that can use
// it ("shop": ">= 2, < 4"); a release that is not named may have any.
type Schema struct {
	For map[string]string `json:"for,omitempty"`
}
