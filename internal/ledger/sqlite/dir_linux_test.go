package sqlite

import "testing"

func TestNetworkFileSystems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		magic int64
		want  string
	}{
		"nfs":               {0x6969, "NFS"},
		"cifs":              {0xff534d42, "SMB/CIFS"},
		"cifs, sign spread": {-0xacb2be, "SMB/CIFS"}, // as 32-bit kernels hand it on
		"smb2":              {0xfe534d42, "SMB/CIFS"},
		"9p":                {0x01021997, "9P"},
		"ext4":              {0xef53, ""},
		"xfs":               {0x58465342, ""},
		"tmpfs":             {0x01021994, ""},
		"overlay":           {0x794c7630, ""},
	} {
		if got := networkName(c.magic); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if got, err := networkFS(t.TempDir()); err != nil || got != "" {
		t.Errorf("a local directory: got %q, %v", got, err)
	}
}
