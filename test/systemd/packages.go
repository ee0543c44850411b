package systemd

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Package is a package, for apt and for dnf, without anything to unpack but Files.
type Package struct {
	Name, Version string

	Files map[string]string // by path; those under /etc are configuration
	Post  string            // what postinst, or %post, does after #!/bin/sh
}

func (p Package) file(ending string) string {
	return p.Name + "_" + p.Version + "_all." + ending
}

// deb writes the package's file into a directory.
func (p Package) deb(dir string) error {
	tree, err := os.MkdirTemp(dir, ".tree-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tree) }()
	control := fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: of a test\n", p.Name, p.Version)
	files := map[string]string{"/DEBIAN/control": control}
	var conffiles strings.Builder
	for path, text := range p.Files {
		files[path] = text
		if strings.HasPrefix(path, "/etc/") {
			conffiles.WriteString(path + "\n")
		}
	}
	if conffiles.Len() > 0 {
		files["/DEBIAN/conffiles"] = conffiles.String()
	}
	if p.Post != "" {
		files["/DEBIAN/postinst"] = "#!/bin/sh\n" + p.Post
	}
	for path, text := range files {
		if err := write(filepath.Join(tree, path), mode(path, text), text); err != nil {
			return err
		}
	}
	if err := os.Chmod(tree, 0o755); err != nil { //nolint:gosec // it is to be a root directory
		return err
	}
	return do("dpkg-deb", "--build", "--root-owner-group", "-Znone", tree, filepath.Join(dir, p.file("deb")))
}

// spec is what rpmbuild makes the package of.
func (p Package) spec() string {
	var install, files strings.Builder
	for _, path := range slices.Sorted(maps.Keys(p.Files)) {
		fmt.Fprintf(&install, "mkdir -p %%{buildroot}%s\ncat >%%{buildroot}%s <<'END OF FILE'\n%sEND OF FILE\nchmod %o %%{buildroot}%s\n",
			filepath.Dir(path), path, p.Files[path], mode(path, p.Files[path]), path)
		if strings.HasPrefix(path, "/etc/") {
			files.WriteString("%config(noreplace) ")
		}
		files.WriteString(path + "\n")
	}
	provides, post := "", ""
	if p.Name == base.Name {
		provides = basic
	}
	if p.Post != "" {
		post = "%post\n" + p.Post + "\n"
	}
	return fmt.Sprintf("Name: %s\nVersion: %s\nRelease: 1\nSummary: of a test\nLicense: none\nBuildArch: noarch\nAutoReqProv: no\n%s%%description\nOf a test.\n%%install\n%s%s%%files\n%s",
		p.Name, p.Version, provides, install.String(), post, files.String())
}

func mode(path, text string) os.FileMode {
	if strings.HasPrefix(text, "#!") || path == "/DEBIAN/postinst" {
		return 0o755
	}
	return 0o644
}

// base is what packages of scriptlets require of a system, for dnf.
var base = Package{Name: "base", Version: "1"}

const basic = "Provides: /bin/sh\nProvides: system-release = 41\n"

// aptRepository makes a directory a repository of apt with these packages.
func aptRepository(dir string, packages []Package) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var index strings.Builder
	for _, p := range packages {
		if err := p.deb(dir); err != nil {
			return err
		}
		path := filepath.Join(dir, p.file("deb"))
		control, err := exec.Command("dpkg-deb", "--field", path).Output() //nolint:noctx // it is short
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		fmt.Fprintf(&index, "%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n", control, p.file("deb"), len(text), hex.EncodeToString(sum[:]))
	}
	sum := sha256.Sum256([]byte(index.String()))
	return errors.Join(
		write(filepath.Join(dir, "Packages"), 0o644, index.String()),
		write(filepath.Join(dir, "Release"), 0o644, fmt.Sprintf("Suite: test\nSHA256:\n %s %d Packages\n", hex.EncodeToString(sum[:]), index.Len())),
	)
}

// dnfRepository makes a directory below a root, in which there are rpmbuild and
// createrepo_c, a repository of dnf with these packages.
func dnfRepository(root, dir string, packages []Package) error {
	if err := os.RemoveAll(filepath.Join(root, dir)); err != nil {
		return err
	}
	var specs []string
	for _, p := range append([]Package{base}, packages...) {
		spec := filepath.Join(dir, "specs", p.Name+"-"+p.Version+".spec")
		if err := write(filepath.Join(root, spec), 0o644, p.spec()); err != nil {
			return err
		}
		specs = append(specs, spec)
	}
	build := []string{root, "rpmbuild", "--quiet", "-bb", "--define", "_rpmdir " + dir, "--define", "_topdir " + dir + "/build"}
	if err := do("chroot", append(build, specs...)...); err != nil {
		return err
	}
	return do("chroot", root, "createrepo_c", "--quiet", "--no-database", dir)
}

func write(path string, mode os.FileMode, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // they are directories of a system
		return err
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask
}

func do(program string, args ...string) error {
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil { //nolint:noctx // it is short
		return fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, out)
	}
	return nil
}
