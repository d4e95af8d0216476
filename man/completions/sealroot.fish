# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_sealroot_global_optspecs
    string join \n json h/help V/version
end

function __fish_sealroot_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_sealroot_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_sealroot_using_subcommand
    set -l cmd (__fish_sealroot_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c sealroot -n "__fish_sealroot_needs_command" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_needs_command" -s V -l version -d 'Print version'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "digest" -d 'Compute fs-verity digests in user space'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "enable" -d 'Enable fs-verity where it is missing'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "inspect" -d 'Look inside a composefs image'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "karg" -d 'Print the kernel command line argument that boots an image'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "keep" -d 'Write to the disk what changes in the listed files of /etc'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "manifest" -d 'Make the sealed list of an initramfs\'s files'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "probe" -d 'Tell what this kernel and a filesystem can do for a sealed root'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "status" -d 'Tell whether this system runs on a sealed root, and on which'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "uki" -d 'Tell what a unified kernel image would boot, before it is released or booted'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "verify" -d 'Check the images of a repository and every object that they refer to'
complete -c sealroot -n "__fish_sealroot_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sealroot -n "__fish_sealroot_using_subcommand digest" -l algorithm -d 'Hash algorithm' -r -f -a "sha256\t''
sha512\t''"
complete -c sealroot -n "__fish_sealroot_using_subcommand digest" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand digest" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand enable" -l algorithm -d 'Hash algorithm for FILEs' -r -f -a "sha256\t''
sha512\t''"
complete -c sealroot -n "__fish_sealroot_using_subcommand enable" -l repo -d 'A repository\'s directory' -r -F
complete -c sealroot -n "__fish_sealroot_using_subcommand enable" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand enable" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand inspect" -l repo -d 'The repository\'s directory' -r -F
complete -c sealroot -n "__fish_sealroot_using_subcommand inspect" -l algorithm -d 'Hash algorithm of the digest of an image file without fs-verity [default: its objects\' one]' -r -f -a "sha256\t''
sha512\t''"
complete -c sealroot -n "__fish_sealroot_using_subcommand inspect" -l list -d 'List every entry'
complete -c sealroot -n "__fish_sealroot_using_subcommand inspect" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand inspect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand karg" -l repo -d 'The repository\'s directory' -r -F
complete -c sealroot -n "__fish_sealroot_using_subcommand karg" -l algorithm -d 'Hash algorithm of the digest of an image file without fs-verity [default: its objects\' one]' -r -f -a "sha256\t''
sha512\t''"
complete -c sealroot -n "__fish_sealroot_using_subcommand karg" -l for -d 'Who looks for the argument' -r -f -a "sealroot\t'The boot program alone: the format of the image is named, too, if it is v1'
bootc\t'bootc and the composefs tools, too: composefs=<hex>, whatever the format'"
complete -c sealroot -n "__fish_sealroot_using_subcommand karg" -l sealed -d 'Also print what closes the ways around the seal, for a physical root with ext4: the whole sealed command line'
complete -c sealroot -n "__fish_sealroot_using_subcommand karg" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand karg" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand keep" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand keep" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand manifest" -l output -d 'Where to write the archive' -r -F
complete -c sealroot -n "__fish_sealroot_using_subcommand manifest" -l cmdline -d 'The kernel command line; of an image with several profiles, that of each' -r
complete -c sealroot -n "__fish_sealroot_using_subcommand manifest" -l ignore -d 'A directory that something fills before units start, and that is to be left alone' -r
complete -c sealroot -n "__fish_sealroot_using_subcommand manifest" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand manifest" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand probe" -l repo -d 'A directory on the filesystem that has the repository, or is to have it [default: /sysroot/composefs, else /]' -r -F
complete -c sealroot -n "__fish_sealroot_using_subcommand probe" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand probe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand status" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand uki" -l cert -d 'Also require a signature that a certificate in this file vouches for' -r -F
complete -c sealroot -n "__fish_sealroot_using_subcommand uki" -l repo -d 'Also require that the repository in this directory has the image with what a boot needs of it, and that the state beside the repository is what a boot takes' -r -F
complete -c sealroot -n "__fish_sealroot_using_subcommand uki" -l accept -d 'With --strict, let this one be open; may be given more than once' -r
complete -c sealroot -n "__fish_sealroot_using_subcommand uki" -l strict -d 'Also require that no way around the seal is open'
complete -c sealroot -n "__fish_sealroot_using_subcommand uki" -l dbx -d 'Print what forbids this program to start, in base64, and nothing else: a list for the firmware\'s variable dbx'
complete -c sealroot -n "__fish_sealroot_using_subcommand uki" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand uki" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand verify" -l repo -d 'The repository\'s directory' -r -F
complete -c sealroot -n "__fish_sealroot_using_subcommand verify" -l all -d 'Every image'
complete -c sealroot -n "__fish_sealroot_using_subcommand verify" -l data -d 'Read every object to its end'
complete -c sealroot -n "__fish_sealroot_using_subcommand verify" -l list-unused -d 'List the objects that no image of the repository refers to'
complete -c sealroot -n "__fish_sealroot_using_subcommand verify" -l json -d 'Answer with one JSON document'
complete -c sealroot -n "__fish_sealroot_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "digest" -d 'Compute fs-verity digests in user space'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "enable" -d 'Enable fs-verity where it is missing'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "inspect" -d 'Look inside a composefs image'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "karg" -d 'Print the kernel command line argument that boots an image'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "keep" -d 'Write to the disk what changes in the listed files of /etc'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "manifest" -d 'Make the sealed list of an initramfs\'s files'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "probe" -d 'Tell what this kernel and a filesystem can do for a sealed root'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "status" -d 'Tell whether this system runs on a sealed root, and on which'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "uki" -d 'Tell what a unified kernel image would boot, before it is released or booted'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "verify" -d 'Check the images of a repository and every object that they refer to'
complete -c sealroot -n "__fish_sealroot_using_subcommand help; and not __fish_seen_subcommand_from digest enable inspect karg keep manifest probe status uki verify help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
