"""Where a GBFS system's feeds are: discovery, and what to do when the list is wrong or out of reach."""

from datetime import datetime, timedelta

from velib_predictor.data.discovery import dataset_address, listed_feeds, read_discovery, siblings
from velib_predictor.data.documents import LONGEST_WAIT, Answer, Clock, Documents, Pause
from velib_predictor.data.fields import without_query
from velib_predictor.data.raw import DISCOVERY, STATUS, DecodeError
from velib_predictor.data.transport import FetchError

MANIFEST = "manifest"
DISCOVERY_EVERY = timedelta(days=1)


class Directory:
    """The addresses of one system's feeds, read from its discovery document daily and when that of the status fails.

    Call `begin` at the start of each poll.
    """

    def __init__(self, system_id: str, url: str, documents: Documents) -> None:
        self._system_id = system_id
        self._url = url
        self._documents = documents
        self._base = url
        self._listed: dict[str, str] = {}
        self._elsewhere: dict[str, str] = {}
        """For listed addresses that serve nothing: where the feed was found instead."""
        self._discovered_at: datetime | None = None
        self._doubtful = False
        self._pause = Pause(LONGEST_WAIT)
        self._asked_now = False
        self._problem: FetchError | DecodeError | None = None

    def begin(self, now: Clock) -> None:
        """Read the list if there is none, if it is a day old, or if the status was not where it says.

        A list that cannot be had is not asked for at every poll as long as the addresses that are known serve.
        """
        self._asked_now = False
        at = now()
        status = self._listed.get(STATUS, "")
        if self._documents.must_wait(self._elsewhere.get(status, status), at):
            return
        fresh = self._discovered_at is not None and timedelta(0) <= at - self._discovered_at < DISCOVERY_EVERY
        if self._doubtful or not (fresh or (STATUS in self._listed and self._pause.lasts(at))):
            self._discover(now)

    def lists(self, name: str) -> bool:
        """Whether the system offers such a feed."""
        return name in self._listed

    def fetch(self, name: str, now: Clock) -> Answer:
        """Fetch a feed from where it is listed, else from where it moved, else from beside the discovery document.

        Raises:
            FetchError: it could not be had.
            DecodeError: the system's discovery document lists no such feed, or is none.
        """
        if name != STATUS:  # no other document says enough of the list as a whole
            return self._fetch(name, now)
        try:
            answer = self._fetch(name, now)
        except (FetchError, DecodeError):
            self._doubtful = True
            raise
        self._doubtful = False
        return answer

    def _fetch(self, name: str, now: Clock) -> Answer:
        listed = self._listed.get(name)
        problem = None
        if listed is not None:
            url = self._elsewhere.get(listed, listed)
            try:
                return self._documents.fetch(name, url, now)
            except FetchError as error:
                if not error.gone:
                    raise
                problem = error
                self._elsewhere.pop(listed, None)
            if not self._asked_now:
                self._discover(now)
                moved = self._listed[name]
                if moved != listed:
                    return self._documents.fetch(name, moved, now)
        elif isinstance(self._problem, FetchError) and (self._problem.status is None or self._problem.retry_after):
            raise self._problem  # what stands beside the list is out of reach, or not to be asked for now, either
        return self._beside(name, listed, problem, now)

    def _beside(self, name: str, listed: str | None, problem: FetchError | None, now: Clock) -> Answer:
        """Look beside the discovery document: after the host was renamed (smoove.pro to smovengo.cloud, before 2023)
        lists still named the old one, and some lists lack feeds for a while."""
        for url in siblings(self._base, name):
            if url == listed:
                continue
            try:
                answer = self._documents.fetch(name, url, now)
            except FetchError as error:
                if error.status is None or error.retry_after:
                    break
                continue
            if listed is None:
                self._listed[name] = url
            else:
                self._elsewhere[listed] = url
            return answer
        if problem is not None:
            raise problem
        if self._problem is not None:
            raise self._problem
        names = ", ".join(sorted(self._listed)) or "none"
        raise DecodeError(f"{without_query(self._url)} lists no stations: there is no {name}; its feeds are: {names}")

    def _discover(self, now: Clock) -> None:
        """Read the list anew; what it lacks stays as it was, and if it cannot be read all does."""
        self._asked_now = True
        try:
            base, found = self._read(now)
        except (FetchError, DecodeError) as error:
            self._problem = error
            self._pause.begin(now())
            return
        self._problem = None
        self._base = base
        self._listed = {**self._listed, **found}
        self._discovered_at = now()
        self._pause.end()

    def _read(self, now: Clock) -> tuple[str, dict[str, str]]:
        answer = self._documents.fetch(DISCOVERY, self._url, now, slot="entry")
        base, data = answer.url, read_discovery(answer.body)
        if (address := dataset_address(data, base, self._system_id)) is None:
            self._documents.keep(DISCOVERY, answer)
        else:
            self._documents.keep(MANIFEST, answer)
            answer = self._documents.fetch(DISCOVERY, address, now)
            base, data = answer.url, read_discovery(answer.body)
        return base, listed_feeds(data, base)
