package sqlite

import "golang.org/x/sys/unix"

// networkFS names the network file system that dir is on; "" for all others.
// FUSE is not among them: it is as often a local disk as a remote one.
func networkFS(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", err
	}
	return networkName(int64(st.Type)), nil //nolint:unconvert // its type differs between architectures
}

// networkName is by the magic numbers of statfs(2).
func networkName(magic int64) string {
	switch uint32(magic) { //nolint:gosec // magic numbers have 32 bits; some architectures sign them
	case unix.NFS_SUPER_MAGIC:
		return "NFS"
	case unix.SMB_SUPER_MAGIC, 0xfe534d42, 0xff534d42:
		return "SMB/CIFS"
	case unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC:
		return "AFS"
	case unix.CODA_SUPER_MAGIC:
		return "Coda"
	case unix.NCP_SUPER_MAGIC:
		return "NCP"
	case unix.V9FS_MAGIC:
		return "9P"
	case unix.OCFS2_SUPER_MAGIC:
		return "OCFS2"
	case 0x00c36400:
		return "Ceph"
	case 0x0bd00bd0:
		return "Lustre"
	case 0x47504653:
		return "GPFS"
	case 0x01161970:
		return "GFS2"
	}
	return ""
}
