"""Every sentence of the page on trust has a test: which ones, stands here.

A sentence that is added to the page without one fails, as does a test that is gone.
"""

import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "examples" / "trust.rst"
#: The example below the sentence shows it, and is run with the others.
SHOWN = ("test_examples.py:test_a_page_is_true",)
#: Advice, and words that lead to the next sentence.
ADVICE = ()
TESTED = {
    "To whoever reads: wrong numbers are never": (
        "test_trust.py:test_the_right_answer_or_a_clear_error",
        "test_trust.py:test_bytes_changed_at_random",
        "test_index_damage.py:test_single_bits",
    ),
    "What is wrong is a ``CorruptFileError``": (
        "test_trust.py:test_messages_name_file_group_position_and_value",
        *SHOWN,
    ),
    "That holds in every mode.": ("test_index_damage.py:test_no_way_to_read_is_silent",),
    "Where a compressed chunk gives too few bytes": (
        "test_held_chunks.py:test_chunks_of_another_length_are_refused_in_both_modes",
        "test_held_chunks.py:test_a_chunk_that_is_too_short_is_not_written_to",
        *SHOWN,
    ),
    "To whoever writes:": ADVICE,
    "Ctrl-C, SIGKILL, an exception": (
        "test_interrupts.py:test_one_exception_and_the_old_state_or_the_new",
        "test_interrupts.py:test_in_the_blocks_of_the_caller",
        "test_kills.py:test_before_or_after",
        "test_journal.py:test_a_full_disk_loses_nothing",
    ),
    "What the system refused is a ``WriteError``": (
        "test_interrupts.py:test_a_limit_of_the_size_of_files",
    ),
    "The next program to open the file undoes": (
        "test_journal.py:test_what_was_not_committed_is_undone_by_the_next",
    ),
    "A matrix that is written over another one": (
        "test_write.py:test_a_failure_leaves_an_existing_file_as_it_was",
        *SHOWN,
    ),
    'Only ``diskcsr.File(path, "w")`` is as h5py\'s': (
        "test_h5.py:test_a_file_that_is_opened_anew_is_gone_at_once",
    ),
    "To whoever reads beside a writer: one committed": (
        "test_beside.py:test_whatever_is_read_was_committed",
    ),
    "A server is trusted as little as a file": (
        "test_remote.py:test_a_server_that_answers_something_else",
        "test_remote.py:test_no_answer_is_read_further_than_asked_for",
    ),
    "A file that changes between two answers": (
        "test_remote.py:test_a_change_is_noticed",
        "test_remote.py:test_a_change_is_noticed_by_the_size",
    ),
    "What a server fails to give": (
        "test_remote.py:test_a_failure_while_hdf5_reads_is_never_called_damage",
        "test_remote.py:test_damage_is_told_as_of_a_file_at_hand",
    ),
    "A URL makes this machine ask": ADVICE,
    "What is not promised: that bytes": (
        "test_untrusted.py:test_an_address_that_leads_to_other_bytes_is_read_as_hdf5_reads_it",
    ),
    "HDF5 keeps no checksum of raw data": (
        "test_held_chunks.py:test_flipped_bits_give_the_same_in_both_modes",
    ),
    "``diskcsr.check`` compares all": SHOWN,
    "A file that crashes or hangs diskcsr": ADVICE,
    "The parts of a file contradict each other": (
        "test_index_damage.py:test_two_arrays_that_claim_the_same_bytes",
        "test_lies.py:test_row_pointers_that_end_in_nothing_are_not_believed",
    ),
    "But HDF5 opens the file, and there is damage": (
        "test_broken_files.py:test_strings_that_claim_what_is_not_there",
        "test_broken_files.py:test_a_damaged_fill_value_that_nobody_needs",
    ),
    "A service that accepts uploads wants more.": ADVICE,
    "With ``untrusted=True`` a process with limits": (
        "test_untrusted.py:test_a_sound_file_is_opened",
        *SHOWN,
    ),
    "When that process dies, or exceeds": (
        "test_untrusted.py:test_a_crash_of_hdf5_ends_the_other_process_alone",
    ),
    "The error names the file, and what ended": (
        "test_untrusted.py:test_what_ended_the_other_process_is_told",
        *SHOWN,
    ),
    "It does all that this process may have HDF5": (
        "test_untrusted.py:test_damage_of_what_is_compressed_is_found_before_it_is_opened",
    ),
    "Indices and values that lie in the file": (
        "test_trust.py:test_the_right_answer_or_a_clear_error",
    ),
    "``refresh`` and a pickle open the file anew": (
        "test_untrusted.py:test_refresh_looks_again",
        "test_untrusted.py:test_a_pickle_looks_again",
    ),
    "A file that was exchanged between": (
        "test_untrusted.py:test_a_file_that_was_exchanged_after_the_look",
    ),
    "A file can also lead to others": (
        "test_links.py:test_parts_in_other_files_are_read",
        "test_virtual.py:test_parts_of_parts_and_of_the_file_itself",
    ),
    "Of a stranger's file that would hand out": (
        "test_untrusted.py:test_a_file_that_leads_to_others_is_refused",
        *SHOWN,
    ),
    "``DiskCSR(...)`` and ``DiskCSC(...)`` take": ("test_untrusted.py:test_every_way_of_opening",),
    "``diskcsr.info`` with it has that process": (
        "test_untrusted.py:test_info_says_the_same",
        "test_untrusted.py:test_the_command_line_looks_in_another_process",
    ),
    "``diskcsr.check`` works in a process": ("test_broken_files.py:test_a_check_that_crashes",),
    "Two things do not go with it.": ADVICE,
    "For writing, HDF5 uses parts of a file": SHOWN,
    "And ``diskcsr.File`` has no such keyword": (
        "test_untrusted.py:test_what_cannot_be_looked_at_first",
    ),
    "The process is no sandbox": ADVICE,
    "It costs its start, some tenths": ("test_bench_scripts.py:test_opening",),
    "Looking first cannot prevent everything.": ADVICE,
    "Each of these was seen, with the release": (
        "test_untrusted.py:test_a_crash_of_hdf5_ends_the_other_process_alone",
        "test_untrusted.py:test_what_only_hdf5_has_the_bytes_of_is_left_to_it",
    ),
    "A virtual dataset whose sources are numbered": (
        "test_broken_files.py:test_numbered_sources_are_left_to_hdf5",
    ),
    'A damaged file that is opened for writing, by mode "r+"': ADVICE,
    "HDF5 may come to structures that nobody reads": (
        "test_campaign.py:test_what_is_known_is_counted_and_no_news",
        "test_untrusted.py:test_what_cannot_be_looked_at_first",
    ),
    "``diskcsr.check`` it first": ADVICE,
    "Strings of attributes are looked at": ("test_broken_files.py:test_what_is_wrong_with_a_heap",),
    "Of more than a few attributes HDF5": (
        "test_untrusted.py:test_a_table_of_attributes_is_left_to_hdf5_unless_the_file_is_untrusted",
    ),
    "Of a file that h5py opened with": (
        "test_untrusted.py:test_what_only_hdf5_has_the_bytes_of_is_left_to_it",
        "test_broken_files.py:test_what_only_hdf5_can_look_at_is_left_to_it",
    ),
    "Give the path, or the Python file object": ADVICE,
    "What you read through h5py yourself": (
        "test_untrusted.py:test_what_only_hdf5_has_the_bytes_of_is_left_to_it",
    ),
    "Chunks with a filter for which there is no decoder": (
        "test_held_chunks.py:test_what_needs_no_decoding_or_has_no_decoder_is_left_to_hdf5",
        "test_virtual.py:test_mappings_of_every_kind",
    ),
    "The address of an array that is stored": (
        "test_untrusted.py:test_an_address_that_leads_to_other_bytes_is_read_as_hdf5_reads_it",
    ),
    "HDF5 reads the same, and nothing in the file": (
        "test_untrusted.py:test_an_address_that_leads_to_other_bytes_is_read_as_hdf5_reads_it",
    ),
    "Bytes that are compressed tell.": (
        "test_held_chunks.py:test_flipped_bits_give_the_same_in_both_modes",
    ),
}


def sentences():
    """Return the sentences of the page, without headings and examples."""
    found = []
    for paragraph in re.split(r"\n\s*\n", PAGE.read_text()):
        if paragraph.startswith(">>>") or re.search(r"\n[=-]{3,}$", paragraph.rstrip()):
            continue
        for item in re.split(r"\n(?=- )", paragraph):
            text = " ".join(item.split()).removeprefix("- ")
            found += re.split(r"(?<=[.:])\s+(?=[A-Z`])", text)
    return found


@cache
def source(name):
    return (TESTS / name).read_text()


@pytest.mark.once
@pytest.mark.parametrize("sentence", sentences(), ids=lambda sentence: sentence[:40])
def test_the_sentence_has_a_test(sentence):
    (beginning,) = (known for known in TESTED if sentence.startswith(known))
    for one in TESTED[beginning]:
        file, _, test = one.partition(":")
        assert f"def {test}(" in source(file)


@pytest.mark.once
def test_nothing_is_listed_that_the_page_does_not_say():
    page = sentences()
    assert [
        known for known in TESTED if not any(map(re.compile(re.escape(known)).match, page))
    ] == []
