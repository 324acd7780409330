#!/usr/bin/perl
# apply.pl LIST NAME: put one fault of a list into the tree at hand. The text to be replaced is
# sought in its function with any white space between its words; it must be there exactly once.
# Prints the file that was changed. Exit 1 and a sentence: the fault does not apply.
#
# apply.pl --check LIST...: which faults of the lists do not apply? Nothing is changed.
use strict;
use warnings;

# The faults of a list, in order: name, file, function ('': all of the file), old and new text.
sub faults {
	my ($list) = @_;
	my @faults;

	open(my $in, '<', $list) or die "$list: $!\n";
	while (<$in>) {
		if (/^fault (\S+):/) {
			push @faults, { name => $1, file => '', function => '', old => '', new => '' };
		} elsif (!@faults) {
			next;
		} elsif (/^in (\S+)(?: (\S+))?/) {
			@{$faults[-1]}{qw(file function)} = ($1, $2 // '');
		} elsif (/^< (.*\n)/) {
			$faults[-1]{old} .= $1;
		} elsif (/^> (.*\n)/) {
			$faults[-1]{new} .= $1;
		}
	}
	close($in);
	return @faults;
}

# The file's text with the fault in it.
sub applied {
	my ($name, $file, $function, $old, $new) = @{$_[0]}{qw(name file function old new)};

	die "$name: no file and text to be replaced\n" if !$file || !$old;
	open(my $in, '<', $file) or die "$name: $file: $!\n";
	my $text = do { local $/; <$in> };
	close($in);

	# From the line that names the function to the brace that ends it.
	my ($from, $to) = (0, length $text);
	if ($function) {
		my @found;
		while ($text =~ /^(?:[A-Za-z_][^\n;={}]*[ *])?\Q$function\E\b[^;{}]*\{$|^[^\n]*\b\Q$function\E(?:\[\])? = \{/mg) {
			push @found, $-[0];
		}
		die "$name: $file has no function $function\n" if !@found;
		die "$name: $file has $function more than once\n" if @found > 1;
		$from = $found[0];
		$to = $from + $+[0] if substr($text, $from) =~ /^\};?$/m;
	}
	my $body = substr($text, $from, $to - $from);
	my $sought = join '\s*', map { quotemeta } $old =~ /\w+|[^\w\s]/g;
	$sought = "\\b$sought" if $old =~ /^\s*\w/;
	$sought .= '\b' if $old =~ /\w\s*$/;
	my $times = () = $body =~ /$sought/g;
	die "$name: found the text to be replaced $times times in $file"
		. ($function ? ", $function()" : '') . "; it must be there once\n" if $times != 1;
	chomp $new;
	$body =~ s/$sought/$new/;
	substr($text, $from, $to - $from) = $body;
	return $text;
}

if ($ARGV[0] eq '--check') {
	my $bad = 0;

	for my $fault (map { faults($_) } @ARGV[1 .. $#ARGV]) {
		next if eval { applied($fault) };
		print STDERR $@;
		$bad = 1;
	}
	exit $bad;
}
my ($list, $name) = @ARGV;
my ($fault) = grep { $_->{name} eq $name } faults($list);
die "$name: no such fault in $list\n" if !$fault;
my $text = applied($fault);
open(my $out, '>', $fault->{file}) or die "$name: $fault->{file}: $!\n";
print $out $text;
close($out) or die "$name: $fault->{file}: $!\n";
print "$fault->{file}\n";
